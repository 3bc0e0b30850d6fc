// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// requestTimeout bounds one request.
const requestTimeout = 30 * time.Second

// NewRequest returns a Request to the server of a config, by the API that kubelet uses for tokens (TokenRequest).
func NewRequest(cfg *rest.Config) (Request, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.APIPath, cfg.Timeout = "/api", requestTimeout
	cfg.ContentConfig = rest.ContentConfig{
		AcceptContentTypes: runtime.ContentTypeJSON, GroupVersion: &schema.GroupVersion{Version: "v1"},
		NegotiatedSerializer: serializer.NewCodecFactory(runtime.NewScheme()).WithoutConversion(),
	}
	client, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("renewing the credential: %w", err)
	}
	return func(ctx context.Context, namespace, account string) (string, error) {
		raw, err := client.Post().AbsPath("/api/v1/namespaces", namespace, "serviceaccounts", account, "token").
			Body([]byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":[]}}`)).
			SetHeader("Content-Type", runtime.ContentTypeJSON).Do(ctx).Raw()
		if err != nil {
			return "", err
		}
		var answer struct {
			Status struct {
				Token string `json:"token"`
			} `json:"status"`
		}
		if err := json.Unmarshal(raw, &answer); err != nil || answer.Status.Token == "" {
			return "", errors.New("the relay's answer has no token")
		}
		return answer.Status.Token, nil
	}, nil
}
