// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/smartnat/smartnat/pkg/explain"
)

// maxAnswer bounds an answer: a status with 100,000 ports takes some 30 MB.
const maxAnswer = 256 << 20

// Client asks a running smartnatd on this host.
type Client struct {
	path string
	http http.Client
}

// NewClient returns a Client for the socket at path.
func NewClient(path string) *Client {
	c := &Client{path: path}
	c.http.Transport = &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}
	return c
}

// Status returns the condition of the gateway.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.get(ctx, statusPath, nil, &s)
	return s, err
}

// Explain returns whether a connection gets through.
func (c *Client) Explain(ctx context.Context, flow explain.Flow) (explain.Answer, error) {
	var a explain.Answer
	query := url.Values{"source": {flow.Source.String()}, "destination": {flow.Destination.String()}, "protocol": {string(flow.Protocol)}}
	err := c.get(ctx, explainPath, query, &a)
	return a, err
}

func (c *Client) get(ctx context.Context, path string, query url.Values, answer any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://smartnatd"+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return c.why(err)
	}
	defer response.Body.Close()
	body := io.LimitReader(response.Body, maxAnswer)
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(body)
		return errors.New(strings.TrimSpace(string(text)))
	}
	if err := json.NewDecoder(body).Decode(answer); err != nil {
		return fmt.Errorf("reading the answer of smartnatd: %w", err)
	}
	return nil
}

// why says in the words of an operator why there is no answer.
func (c *Client) why(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no smartnatd runs with this config: nothing listens on %s; see 'systemctl status smartnatd'", c.path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: permission denied: run this as root", c.path)
	}
	return fmt.Errorf("asking smartnatd: %w", err)
}
