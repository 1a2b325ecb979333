package kafka

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// specified are the keys and versions that a client shall be told of, from the table of API keys (A1-A11).
var specified = map[int16][2]int16{
	0: {0, 12}, 1: {4, 17}, 2: {1, 10}, 3: {0, 13}, 8: {2, 9}, 9: {1, 9}, 10: {0, 6}, 11: {0, 9}, 12: {0, 4}, 13: {0, 5}, 14: {0, 5},
	15: {0, 6}, 16: {0, 5}, 17: {0, 1}, 18: {0, 4}, 19: {2, 7}, 20: {1, 6}, 21: {0, 2}, 22: {0, 5}, 23: {2, 4}, 24: {0, 3}, 25: {0, 4}, 26: {0, 5},
	27: {1, 2}, 28: {0, 5}, 29: {0, 3}, 30: {0, 3}, 31: {0, 3}, 32: {0, 4}, 33: {0, 2}, 35: {1, 4}, 36: {0, 2}, 37: {0, 3}, 42: {0, 2}, 43: {0, 2}, 44: {0, 1}, 45: {0, 0}, 46: {0, 0},
	47: {0, 0}, 48: {0, 1}, 50: {0, 0}, 51: {0, 0}, 55: {0, 2}, 57: {0, 2}, 60: {0, 2}, 61: {0, 0}, 65: {0, 0}, 66: {0, 2}, 68: {0, 1}, 69: {0, 1}, 74: {0, 1}, 75: {0, 0},
}

func TestApiVersionsMatchesTheTable(t *testing.T) {
	for version := int16(0); version <= 4; version++ {
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = version, "test", "1.0"
		resp := newRig(t, nil).dial().ask(req).(*kmsg.ApiVersionsResponse)
		if resp.ErrorCode != 0 {
			t.Fatalf("version %d: code %d", version, resp.ErrorCode)
		}
		told := make(map[int16]bool)
		for _, k := range resp.ApiKeys {
			told[k.ApiKey] = true
			want, ok := specified[k.ApiKey]
			if !ok {
				t.Errorf("key %d is announced and not in the table", k.ApiKey)
			}
			if got := [2]int16{k.MinVersion, k.MaxVersion}; got != want {
				t.Errorf("key %d: versions %v, want %v", k.ApiKey, got, want)
			}
		}
		for key := range specified {
			if !told[key] {
				t.Errorf("key %d is not announced", key)
			}
		}
	}
}

// A version that the codec does not know would be decoded wrongly.
func TestCodecKnowsEveryVersion(t *testing.T) {
	for key, e := range endpoints {
		req := kmsg.RequestForKey(key)
		if req == nil || req.MaxVersion() < e.max {
			t.Errorf("key %d: the codec does not know version %d", key, e.max)
		}
		if e.name == "Unknown" {
			t.Errorf("key %d has no name", key)
		}
	}
}

// A4: an unknown version of ApiVersions is answered in the form of version 0 with its own range alone.
func TestApiVersionsOfAnUnknownVersion(t *testing.T) {
	r := newRig(t, nil)
	w := r.dial()
	req := kmsg.NewPtrApiVersionsRequest()
	req.Version = 5
	id := w.send(req)
	asked := *req
	asked.Version = 0
	resp := w.recv(id, &asked).(*kmsg.ApiVersionsResponse)
	if resp.ErrorCode != 35 || len(resp.ApiKeys) != 1 || resp.ApiKeys[0].ApiKey != 18 || resp.ApiKeys[0].MaxVersion != 4 {
		t.Errorf("answer %+v", resp)
	}
	req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = 4, "test", "1.0" // the connection goes on
	if resp := w.ask(req).(*kmsg.ApiVersionsResponse); resp.ErrorCode != 0 {
		t.Errorf("version 4 gave code %d", resp.ErrorCode)
	}
	for _, name := range []string{"", "-x", "x y", "x-"} {
		req.ClientSoftwareName = name
		if resp := w.ask(req).(*kmsg.ApiVersionsResponse); resp.ErrorCode != 42 {
			t.Errorf("client software %q gave code %d, want 42", name, resp.ErrorCode)
		}
	}
}

// A5: any other request at a version that is not served ends the connection, and so does an unknown key.
func TestUnknownVersionsEndTheConnection(t *testing.T) {
	r := newRig(t, nil)
	for _, c := range []struct{ key, version int16 }{{0, 2}, {0, 13}, {1, 3}, {3, 14}, {3, -1}, {4, 0}, {999, 0}, {-1, 0}} {
		w := r.dial()
		b := make([]byte, 14)
		b[3] = 10
		b[4], b[5], b[6], b[7] = byte(c.key>>8), byte(c.key), byte(c.version>>8), byte(c.version)
		b[12], b[13] = 0xff, 0xff
		if _, err := w.conn.Write(b); err != nil {
			t.Fatal(err)
		}
		w.gone()
	}
	r.works()
}

// Each key has a file of its own, which is found by its number.
func TestEveryKeyHasItsFile(t *testing.T) {
	for key, e := range endpoints {
		if files, err := filepath.Glob(fmt.Sprintf("%02d_*.go", key)); err != nil || len(files) != 1 {
			t.Errorf("%s (%d): %v, %v", e.name, key, files, err)
		}
	}
}
