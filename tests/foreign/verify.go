// Verifies a transparency log that consentd exported, with the Go project's own packages for such logs, of which
// this project wrote nothing: golang.org/x/mod/sumdb/note opens checkpoints (signed notes, Ed25519), and
// golang.org/x/mod/sumdb/tlog hashes entries, trees and proofs (RFC 6962). What is here reads files and asks them.
//
//	apt-get install --no-install-recommends golang-go golang-golang-x-mod-dev
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o verify tests/foreign/verify.go tests/foreign/proof.go
//	./verify [DIR] [--vkey FILE] [--proof FILE]... [--old-checkpoint FILE [--consistency FILE]]
//
// DIR is the export: checkpoint, vkey, tile/. Without it only proofs are checked. Where you can, give --vkey a key
// that came another way than the log: a log under a key that it brings along vouches for itself.
// Prints a line for each check, up to the first that fails. Exit status: 0 if all hold, 1 if not, 2 for a wrong call.
package main

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// tlog cuts tiles as tlog-tiles does, but has their height in the path, and "data" for "entries".
var (
	ours   = strings.NewReplacer("tile/8/data/", "tile/entries/", "tile/8/", "tile/")
	theirs = strings.NewReplacer("tile/entries/", "tile/8/data/", "tile/", "tile/8/")
)

// contents is what the entry bundles hold, and every hash that follows from it, in the order of tlog.StoredHashIndex.
type contents struct {
	entries [][]byte // each with its length before it
	hashes  []tlog.Hash
}

func (c *contents) ReadHashes(indexes []int64) (hashes []tlog.Hash, err error) {
	for _, i := range indexes {
		hashes = append(hashes, c.hashes[i])
	}
	return
}

func (c *contents) readBundle(dir string, tile tlog.Tile) {
	path := ours.Replace(tile.Path())
	for data := read(dir, path); len(data) > 0; {
		need(len(data) >= 2 && len(data) >= 2+int(binary.BigEndian.Uint16(data)), "%s is cut short", path)
		end := 2 + int(binary.BigEndian.Uint16(data))
		hashes := must(tlog.StoredHashes(int64(len(c.entries)), data[2:end], c))
		c.entries, c.hashes, data = append(c.entries, data[:end]), append(c.hashes, hashes...), data[end:]
	}
	need(int64(len(c.entries)) == tile.N<<8+int64(tile.W), "%s does not hold %d entries", path, tile.W)
}

// readTree reads the entries, and compares each file under tile/ with what they make of it, so that none is wrong,
// missing or too many. (tlog.TileHashReader would not do: it takes the tiles that it needs, and not all of those with a
// look at what is above them.)
func (c *contents) readTree(dir string, tree tlog.Tree) string {
	due, files := map[string]bool{}, 0
	for _, tile := range tlog.NewTiles(8, 0, tree.N) { // lists a partial tile in each width up to the one that is due
		if tile.W == 256 || tile.N<<8+int64(tile.W) == tree.N>>(8*tile.L) {
			due[ours.Replace(tile.Path())] = true
			if tile.L == 0 {
				tile.L = -1
				due[ours.Replace(tile.Path())] = true
				c.readBundle(dir, tile)
			}
		}
	}
	c.needRoot(tree)
	must(0, filepath.WalkDir(filepath.Join(dir, "tile"), func(file string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) || err == nil && d.IsDir() {
			return nil
		}
		path := filepath.ToSlash(must(filepath.Rel(dir, file)))
		tile := must(tlog.ParseTilePath(theirs.Replace(path)))
		level := tile.L
		if level < 0 {
			level = 0
		}
		need(tile.N<<8+int64(tile.W) <= tree.N>>(8*level), "%s is beyond the checkpoint", path)
		var want []byte
		if tile.L < 0 {
			want = bytes.Join(c.entries[tile.N<<8:][:tile.W], nil)
		} else {
			want = must(tlog.ReadTileData(tile, c))
		}
		need(bytes.Equal(read(file), want), "%s is not what the entries make of it", path)
		delete(due, path)
		files++
		return nil
	}))
	need(len(due) == 0, "missing: %v", due)
	return fmt.Sprintf("%d entries, %d files", tree.N, files)
}

func main() {
	dir, args := "", os.Args[1:]
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		dir, args = args[0], args[1:]
	}
	var proofs []string
	vkey := flag.String("vkey", filepath.Join(dir, "vkey"), "verifier keys, one a line")
	flag.Func("proof", "a tlog-proof (may be repeated)", func(file string) error {
		proofs = append(proofs, file)
		return nil
	})
	older := flag.String("old-checkpoint", "", "an earlier checkpoint, which DIR must continue")
	consistency := flag.String("consistency", "", "a proof of that, as JSON")
	_ = flag.CommandLine.Parse(args)
	if flag.NArg() > 0 || dir == "" && (proofs == nil || *older != "") || *older == "" && *consistency != "" {
		flag.Usage()
		os.Exit(2)
	}

	var tree, old tlog.Tree
	log := &contents{}
	check("keys", func() string { return readKeys(*vkey) })
	if dir != "" {
		check("checkpoint", func() (detail string) {
			tree, detail = openCheckpoint(read(dir, "checkpoint"))
			return
		})
		check("tree", func() string { return log.readTree(dir, tree) })
	}
	if *older != "" {
		check("old checkpoint", func() (detail string) {
			old, detail = openCheckpoint(read(*older))
			log.needRoot(old)
			return
		})
	}
	if *consistency != "" {
		check("consistency", func() string { return checkConsistency(read(*consistency), old, tree) })
	}
	for _, file := range proofs {
		check("proof "+file, func() string { return checkProof(read(file), log) })
	}
}
