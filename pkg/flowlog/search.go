// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/flows"
)

// maxLine bounds a line. A Record takes less than 500 bytes.
const maxLine = 4096

// Found says how far an answer of the log goes.
type Found struct {
	// Oldest is the end of the oldest connection in the log, or zero if there is none.
	Oldest time.Time
	// Losses counts the marks that connections are missing, at or after the time that was asked for.
	Losses int
}

// Search passes the connections in the log that answer a question, oldest file first. It skips lines that are no Record, such as the
// last one after a crash. It reads the whole log: 64 MB take about a tenth of a second.
func Search(file string, q flows.Question, each func(r flows.Record, certain bool)) (Found, error) {
	var found Found
	all, err := filesOf(file)
	if err != nil {
		return found, err
	}
	seen, lost := []byte(`"seen":"`+q.Seen.String()+`"`), []byte(`"lost":true`)
	for _, path := range all {
		err := lines(path, func(line []byte) {
			if found.Oldest.IsZero() {
				if r, ok := parse(line); ok {
					found.Oldest = r.End
				}
			}
			switch {
			case bytes.Contains(line, seen):
				r, ok := parse(line)
				if !ok {
					return
				}
				if matches, certain := q.Match(r.Flow()); matches {
					each(r, certain)
				}
			case bytes.Contains(line, lost):
				if r, ok := parse(line); ok && r.Lost && !r.End.Before(q.At) {
					found.Losses++
				}
			}
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // removed meanwhile, as the oldest one
			return found, fmt.Errorf("reading the flow log: %w", err)
		}
	}
	return found, nil
}

func parse(line []byte) (flows.Record, bool) {
	var r flows.Record
	err := json.Unmarshal(line, &r)
	return r, err == nil && !r.End.IsZero()
}

// filesOf returns the files of a log, oldest first. lumberjack names older ones NAME-TIME.EXT.
func filesOf(file string) ([]string, error) {
	folder, base := filepath.Split(file)
	ext := filepath.Ext(base)
	name := strings.TrimSuffix(base, ext) + "-"
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the flow log: %w", err)
	}
	var all []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), name) && strings.HasSuffix(e.Name(), ext) && e.Type().IsRegular() {
			all = append(all, filepath.Join(folder, e.Name()))
		}
	}
	slices.Sort(all)
	return append(all, file), nil
}

// lines passes each whole line, without its end. It skips lines that are too long.
func lines(path string, each func([]byte)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, maxLine)
	skip := false
	for {
		line, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			skip = true
		case errors.Is(err, io.EOF): // a part of a line may be there
			return nil
		case err != nil:
			return err
		case skip:
			skip = false
		default:
			each(line[:len(line)-1])
		}
	}
}
