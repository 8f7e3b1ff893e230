package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var keys note.Verifiers

// check prints how f went. What does not hold in f is a panic, and ends it all: nothing after it could be believed.
func check(what string, f func() string) {
	defer func() {
		if err := recover(); err != nil {
			fmt.Printf("FAILED %s: %v\n", what, err)
			os.Exit(1)
		}
	}()
	fmt.Printf("ok %s: %s\n", what, f())
}

func need(ok bool, format string, args ...any) {
	if !ok {
		panic(fmt.Errorf(format, args...))
	}
}

func must[T any](value T, err error) T {
	need(err == nil, "%v", err)
	return value
}

func read(path ...string) []byte { return must(os.ReadFile(filepath.Join(path...))) }

func number(s string) int64 {
	n := must(strconv.ParseInt(s, 10, 64))
	need(n >= 0 && strconv.FormatInt(n, 10) == s, "malformed number %q", s)
	return n
}

func readKeys(file string) string {
	var list []note.Verifier
	for _, vkey := range strings.Fields(string(read(file))) {
		list = append(list, must(note.NewVerifier(vkey)))
	}
	keys = note.VerifierList(list...)
	return fmt.Sprintf("%d", len(list))
}

// openCheckpoint wants a signature by the log, whose key has the origin for its name: a witness's is not enough.
func openCheckpoint(msg []byte) (tlog.Tree, string) {
	n := must(note.Open(msg, keys))
	lines := append(strings.Split(n.Text, "\n"), "", "")
	for _, sig := range n.Sigs {
		if sig.Name == lines[0] {
			must(base64.StdEncoding.Strict().DecodeString(sig.Base64)) // note lets a last character be another
			tree := tlog.Tree{N: number(lines[1]), Hash: must(tlog.ParseHash(lines[2]))}
			return tree, fmt.Sprintf("%s, size %d, root %v, key %08x", lines[0], tree.N, tree.Hash, sig.Hash)
		}
	}
	panic(fmt.Errorf("not signed by its origin %q", lines[0]))
}

func (c *contents) needRoot(tree tlog.Tree) {
	need(tree.N <= int64(len(c.entries)), "size %d is beyond the %d entries", tree.N, len(c.entries))
	root := tlog.Hash(sha256.Sum256(nil)) // the empty tree's, of which this tlog has a notion of its own
	if tree.N > 0 {
		root = must(tlog.TreeHash(tree.N, c))
	}
	need(root == tree.Hash, "the first %d entries hash to %v, the checkpoint says %v", tree.N, root, tree.Hash)
}

func checkConsistency(data []byte, old, tree tlog.Tree) string {
	var proof struct {
		Old     *int64         `json:"old_size"`
		New     *int64         `json:"new_size"`
		OldRoot *tlog.Hash     `json:"old_root"`
		NewRoot *tlog.Hash     `json:"new_root"`
		Hashes  tlog.TreeProof `json:"hashes"`
	}
	must(0, json.Unmarshal(data, &proof))
	need(proof.Old != nil && *proof.Old == old.N && proof.New != nil && *proof.New == tree.N, "of other sizes")
	need(proof.OldRoot == nil || *proof.OldRoot == old.Hash, "of another old root")
	need(proof.NewRoot == nil || *proof.NewRoot == tree.Hash, "of another new root")
	if old.N == 0 { // everything continues the empty tree, and tlog will not hear of it
		need(len(proof.Hashes) == 0, "a proof from the empty tree has no hashes")
	} else {
		must(0, tlog.CheckTree(proof.Hashes, tree.N, tree.Hash, old.N, old.Hash))
	}
	return fmt.Sprintf("%d entries continue the %d", tree.N, old.N)
}

func checkProof(data []byte, log *contents) string {
	head, checkpoint, _ := strings.Cut(string(data), "\n\n")
	tree, detail := openCheckpoint([]byte(checkpoint))
	lines := strings.Split(head, "\n")
	need(lines[0] == "c2sp.org/tlog-proof@v1" && len(lines) > 1, "not a tlog-proof")
	extra := strings.HasPrefix(lines[1], "extra ")
	need(extra && len(lines) > 2 && strings.HasPrefix(lines[2], "index "), "no leaf, or no index")
	index := number(lines[2][len("index "):])
	var path tlog.RecordProof
	for _, line := range lines[3:] {
		path = append(path, must(tlog.ParseHash(line)))
		need(path[len(path)-1].String() == line, "malformed hash %q", line)
	}
	var content struct {
		Leaf     string
		Openings []opening
	}
	must(0, json.Unmarshal(must(base64.StdEncoding.DecodeString(lines[1][len("extra "):])), &content))
	need(content.Openings != nil, "no list of openings")
	must(0, tlog.CheckRecord(path, tree.N, tree.Hash, index, tlog.RecordHash([]byte(content.Leaf))))
	if tree.N <= int64(len(log.entries)) {
		log.needRoot(tree) // or the log says one thing to us and another in the proof
	}
	return fmt.Sprintf("entry %d of %s%s", index, detail, checkOpenings(content.Leaf, content.Openings))
}

type opening struct{ Field, Value, Salt string }

// checkOpenings says which fields are opened. An opening shows what a commitment in the leaf stands for; this format is
// consentd's own, so that no package has it, but it is nothing but SHA-256.
func checkOpenings(leaf string, openings []opening) (names string) {
	var content struct{ Commitments map[string]string }
	must(0, json.Unmarshal([]byte(leaf), &content))
	for _, o := range openings {
		var b bytes.Buffer
		b.WriteString("consentd/field/v1\x00")
		must(0, binary.Write(&b, binary.BigEndian, uint16(len(o.Field))))
		b.WriteString(o.Field)
		must(0, binary.Write(&b, binary.BigEndian, uint32(len(o.Value))))
		b.WriteString(o.Value)
		b.Write(must(hex.DecodeString(o.Salt)))
		need(content.Commitments[o.Field] == fmt.Sprintf("%x", sha256.Sum256(b.Bytes())), "opening of %q", o.Field)
		names += ", opens " + o.Field
	}
	return
}
