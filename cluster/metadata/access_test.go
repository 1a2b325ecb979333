package metadata

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
	"github.com/oncelog/oncelog/cluster/metadata/acl"
)

func protoCredential(user string, m Mechanism, fill byte) *statev1.ScramCredential {
	return &statev1.ScramCredential{User: user, Mechanism: uint32(m), Salt: bytes.Repeat([]byte{fill}, 16), Iterations: MinIterations,
		StoredKey: bytes.Repeat([]byte{fill}, m.keyLength()), ServerKey: bytes.Repeat([]byte{fill}, m.keyLength())}
}

func accessState(t *testing.T, level uint32) *State {
	t.Helper()
	s := NewState()
	r, err := s.ApplyCommand(1, &statev1.MetadataCommand{Command: &statev1.MetadataCommand_InitCluster{InitCluster: &statev1.InitCluster{ClusterId: "c", FeatureLevel: level}}})
	if err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
	return s
}

func access(c *statev1.AlterAccess) *statev1.MetadataCommand {
	return &statev1.MetadataCommand{Command: &statev1.MetadataCommand_AlterAccess{AlterAccess: c}}
}

// Users and rules are those that plain maps would have, whatever comes, before and after a snapshot.
func TestAccessAgainstMaps(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s := accessState(t, uint32(AccessLevel))
	users, rules := map[string]byte{}, map[acl.Rule]bool{}
	key := func(user string, m uint32) string { return fmt.Sprintf("%s %d", user, m) }
	for index := uint64(2); index < 1500; index++ {
		c := &statev1.AlterAccess{FirstCredentials: r.IntN(10) == 0}
		wantUsers, wantRules, good := maps.Clone(users), maps.Clone(rules), true
		for range r.IntN(3) {
			ref := &statev1.CredentialRef{User: fmt.Sprint("u", r.IntN(5)), Mechanism: uint32(1 + r.IntN(2))}
			c.DeleteCredentials = append(c.DeleteCredentials, ref)
			delete(wantUsers, key(ref.User, ref.Mechanism))
		}
		for range r.IntN(3) {
			p := protoCredential(fmt.Sprint("u", r.IntN(5)), Mechanism(1+r.IntN(2)), byte(r.IntN(256)))
			if r.IntN(20) == 0 {
				p.Iterations, good = MaxIterations+1, false
			}
			c.UpsertCredentials = append(c.UpsertCredentials, p)
			wantUsers[key(p.User, p.Mechanism)] = p.Salt[0]
		}
		random := func() acl.Rule {
			return acl.Rule{Type: acl.Topic, Name: fmt.Sprint("t", r.IntN(3)), Pattern: acl.Literal, Principal: fmt.Sprint("User:u", r.IntN(3)), Host: "*",
				Operation: acl.Operation(2 + r.IntN(3)), Permission: acl.Permission(2 + r.IntN(2))}
		}
		for range r.IntN(3) {
			rule := random()
			c.RemoveRules = append(c.RemoveRules, RuleToProto(rule))
			delete(wantRules, rule)
		}
		for range r.IntN(3) {
			rule := random()
			if r.IntN(20) == 0 {
				rule.Host, good = "nowhere", false
			}
			c.AddRules = append(c.AddRules, RuleToProto(rule))
			wantRules[rule] = true
		}
		if c.FirstCredentials && len(users) > 0 {
			wantUsers, wantRules, good = users, rules, true
		}
		res, err := s.ApplyCommand(index, access(c))
		if err != nil || (res.Err == nil) != good {
			t.Fatalf("seed %d, entry %d: %v, %v; good %v", seed, index, err, res.Err, good)
		}
		if good {
			users, rules = wantUsers, wantRules
		}
		img := s.Image()
		got := map[string]byte{}
		for _, cred := range img.Credentials() {
			got[key(cred.User, uint32(cred.Mechanism))] = cred.Salt[0]
		}
		if !maps.Equal(got, users) || img.Rules().Len() != len(rules) || slices.ContainsFunc(img.Rules().Rules(), func(r acl.Rule) bool { return !rules[r] }) {
			t.Fatalf("seed %d, entry %d: users %v, want %v; rules %v, want %v", seed, index, got, users, img.Rules().Rules(), rules)
		}
		if index%50 != 0 {
			continue
		}
		snap, err := img.AppendSnapshot(nil)
		if err != nil {
			t.Fatal(err)
		}
		restored, err := RestoreImage(snap)
		if err != nil {
			t.Fatal(err)
		}
		again, err := restored.AppendSnapshot(nil)
		if err != nil || !bytes.Equal(snap, again) {
			t.Fatalf("a snapshot that is read gives another: %v", err)
		}
		s = StateOf(restored)
	}
}

// Below the level that knows them nothing of them is in the state.
func TestAccessNeedsItsLevel(t *testing.T) {
	t.Parallel()
	s := accessState(t, 1)
	r, err := s.ApplyCommand(2, access(&statev1.AlterAccess{UpsertCredentials: []*statev1.ScramCredential{protoCredential("u", ScramSHA256, 1)}}))
	if err != nil || r.Err == nil || r.Err.Code != UnsupportedVersion || r.Changed {
		t.Fatalf("%+v, %v", r, err)
	}
}

// What a credential holds gets into no text by accident.
func TestCredentialsAreNotPrinted(t *testing.T) {
	t.Parallel()
	c, refusal := CredentialFromProto(protoCredential("u", ScramSHA256, 'Z'))
	if refusal != nil {
		t.Fatal(refusal)
	}
	for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%v %+v %#v", c, c, c)} {
		if bytes.Contains([]byte(text), []byte("ZZZ")) || bytes.Contains([]byte(text), []byte("90, 90")) || bytes.Contains([]byte(text), []byte("0x5a")) {
			t.Errorf("printed: %s", text)
		}
	}
}
