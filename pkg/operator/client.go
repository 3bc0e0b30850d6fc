// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/smartnat/smartnat/pkg/explain"
	"github.com/smartnat/smartnat/pkg/flows"
	"github.com/smartnat/smartnat/pkg/ha"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/plan"
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

// Pair returns the pair of which the gateway is one, or nil.
func (c *Client) Pair(ctx context.Context) (*ha.Status, error) {
	var s *ha.Status
	err := c.get(ctx, pairPath, nil, &s)
	return s, err
}

// Explain returns whether a connection gets through.
func (c *Client) Explain(ctx context.Context, flow explain.Flow) (explain.Answer, error) {
	var a explain.Answer
	query := url.Values{"source": {flow.Source.String()}, "destination": {flow.Destination.String()}, "protocol": {string(flow.Protocol)}}
	err := c.get(ctx, explainPath, query, &a)
	return a, err
}

// Diff compares the kernel with what is desired. With documents, it says what they would change.
func (c *Client) Diff(ctx context.Context, documents *objects.Snapshot) (plan.Diff, error) {
	var d plan.Diff
	if documents == nil {
		err := c.get(ctx, diffPath, nil, &d)
		return d, err
	}
	body, err := json.Marshal(documents)
	if err != nil {
		return d, fmt.Errorf("sending the documents: %w", err)
	}
	err = c.ask(ctx, http.MethodPost, diffPath, bytes.NewReader(body), &d)
	return d, err
}

// Connections returns at most limit open connections, of all Mappings or of one, as namespace/name.
func (c *Client) Connections(ctx context.Context, mapping string, limit int) (Connections, error) {
	var answer Connections
	err := c.get(ctx, connectionsPath, url.Values{"mapping": {mapping}, "limit": {strconv.Itoa(limit)}}, &answer)
	return answer, err
}

// ClientsBehind returns the clients behind an address that a backend saw.
func (c *Client) ClientsBehind(ctx context.Context, q flows.Question) (Clients, error) {
	var answer Clients
	query := url.Values{"seen": {q.Seen.String() + "/" + string(q.Protocol)}}
	if !q.At.IsZero() {
		query.Set("at", q.At.Format(time.RFC3339Nano))
	}
	err := c.get(ctx, whoPath, query, &answer)
	return answer, err
}

func (c *Client) get(ctx context.Context, path string, query url.Values, answer any) error {
	return c.ask(ctx, http.MethodGet, path+"?"+query.Encode(), nil, answer)
}

func (c *Client) ask(ctx context.Context, method, path string, body io.Reader, answer any) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://smartnatd"+path, body)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return c.why(err)
	}
	defer response.Body.Close()
	text := io.LimitReader(response.Body, maxAnswer)
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return errors.New("the running smartnatd does not know this question: it is of another version than this command; restart it")
	default:
		why, _ := io.ReadAll(text)
		return errors.New(strings.TrimSpace(string(why)))
	}
	if err := json.NewDecoder(text).Decode(answer); err != nil {
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
		return fmt.Errorf("%s: permission denied: run this as root, or as a member of the group smartnat", c.path)
	}
	return fmt.Errorf("asking smartnatd: %w", err)
}
