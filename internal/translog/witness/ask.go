package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"levee/internal/translog/proof"
)

// Asker sends one request to a witness: a POST of body, or a GET if that is nil.
type Asker func(ctx context.Context, path string, body []byte) (Answer, error)

// Answer is a witness's.
type Answer struct {
	Status int
	Type   string
	Body   []byte
}

// Over returns an Asker over HTTP: base has no slash at its end.
func Over(client *http.Client, base string) Asker {
	return func(ctx context.Context, path string, body []byte) (Answer, error) {
		method := http.MethodGet
		if body != nil {
			method = http.MethodPost
		}
		request, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
		if err != nil {
			return Answer{}, err
		}
		response, err := client.Do(request)
		if err != nil {
			return Answer{}, err
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
		if err != nil {
			return Answer{}, fmt.Errorf("reading its answer: %w", err)
		}
		if len(answer) > maxAnswer {
			return Answer{}, fmt.Errorf("its answer is over %d bytes long", maxAnswer)
		}
		return Answer{response.StatusCode, response.Header.Get("Content-Type"), answer}, nil
	}
}

// maxTries bounds a round with one witness: one to be told the size that it has,
// one to begin there, one more because another of our requests may have come late.
const maxTries = 3

// minPatience is the shortest time that a witness is given.
const minPatience = 2 * time.Second

// ask has one witness cosign cp and returns its signature line.
func (c *Client) ask(ctx context.Context, p *peer, cp proof.Checkpoint) (string, error) {
	ctx, done := context.WithTimeout(ctx, max(c.config.Interval/2, minPatience))
	defer done()
	for range maxTries {
		r := request{old: min(p.size, cp.Tree.N), checkpoint: cp.Note}
		if r.old > 0 && r.old < cp.Tree.N {
			var err error
			if r.proof, err = tlog.ProveTree(cp.Tree.N, r.old, tlog.TileHashReader(cp.Tree, proof.Tiles(c.config.Tiles))); err != nil {
				return "", fmt.Errorf("proving that the log continues its first %d entries: %w", r.old, err)
			}
		}
		a, err := p.Ask(ctx, PathAdd, r.marshal())
		if err != nil {
			return "", err
		}
		size, told := c.told(a)
		switch {
		case a.Status == http.StatusOK:
			line, err := cosignature(cp, p.Key, a.Body)
			if err != nil {
				return "", err
			}
			p.size = cp.Tree.N
			p.mu.Lock()
			p.at, p.by = cp.Tree.N, time.Now()
			p.mu.Unlock()
			return line, nil
		case told && size <= cp.Tree.N && size != r.old:
			if size < p.size {
				c.config.Log.Error("a witness has forgotten what it cosigned: its state was put back or lost", slog.String("witness", p.Key.Name()),
					slog.Int64("cosigned", p.size), slog.Int64("says", size))
			}
			p.size = size
		case a.Status == http.StatusConflict, a.Status == http.StatusUnprocessableEntity:
			return "", c.confront(ctx, p, cp, a)
		default:
			return "", refused(a)
		}
	}
	return "", errors.New("it names another size each time")
}

// told returns the size that a conflict tells.
func (c *Client) told(a Answer) (int64, bool) {
	if a.Status != http.StatusConflict || a.Type != typeSize {
		return 0, false
	}
	text, ok := strings.CutSuffix(string(a.Body), "\n")
	if !ok {
		return 0, false
	}
	return parseSize(text)
}

// confront asks a witness that says that we contradict ourselves to show what it
// holds. Only what our own key signed proves it: a witness alone, which may be
// captured, stops no log.
func (c *Client) confront(ctx context.Context, p *peer, cp proof.Checkpoint, said Answer) error {
	a, err := p.Ask(ctx, PathHeld+cp.Origin, nil)
	if err != nil {
		return fmt.Errorf("%w; and asked to show what it holds: %w", refused(said), err)
	}
	if a.Status != http.StatusOK {
		return fmt.Errorf("%w; and it does not show what it holds: %w", refused(said), refused(a))
	}
	held, err := proof.OpenCheckpoint(a.Body, c.config.Verifier)
	if err != nil {
		return fmt.Errorf("%w; and what it shows is not ours: %w", refused(said), err)
	}
	if err := c.compare("witness "+p.Key.Name(), held, cp); err != nil {
		return err
	}
	return fmt.Errorf("%w; and yet the log continues what it shows", refused(said))
}

// refused spells a refusal, in one line that is fit for a log.
func refused(a Answer) error {
	line, _, _ := strings.Cut(string(a.Body[:min(len(a.Body), 200)]), "\n")
	return fmt.Errorf("it answers %d: %s", a.Status, strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, line))
}
