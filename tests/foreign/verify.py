"""Verifies a transparency log that consentd exported, with tlog-scales: a Python implementation of tlog-tiles by
others, with the Ed25519 of cryptography. What is here reads files and asks them.

    python3 -m venv venv && venv/bin/pip install -r tests/foreign/requirements.txt      (Python 3.11 or later)
    venv/bin/python tests/foreign/verify.py [DIR] [--vkey FILE] [--proof FILE]...
                                            [--old-checkpoint FILE [--consistency FILE]]

DIR is the export: checkpoint, vkey, tile/. Without it only proofs are checked. Where you can, give --vkey a key that
came another way than the log: a log under a key that it brings along vouches for itself.
Prints a line for each check, up to the first that fails. Exit status: 0 if all hold, 1 if not, 2 for a wrong call.
"""

import argparse
import hashlib
import json
import re
import struct
import sys
import tempfile
from pathlib import Path

from tlog_scales.backend import LocalBackend
from tlog_scales.reader import Tile, TilesReader
from tlog_scales.signing import Vkey
from tlog_scales.tiles import leaf_hash
from tlog_scales.tlog import Checkpoint, ConsistencyProof, InclusionProof
from tlog_scales.utils import b64dec, b64enc
from tlog_scales.writer import TilesWriter


def check(what, function, *args):
    try:
        result, detail = function(*args)
    except Exception as error:  # whatever it is, it does not hold
        print(f"FAILED {what}: {type(error).__name__}: {error}")
        sys.exit(1)
    print(f"ok {what}: {detail}")
    return result


def need(holds, what):
    if not holds:
        raise ValueError(what)


def read_keys(path):
    lines = path.read_text().split()
    keys = [Vkey.from_string(line) for line in lines]
    for line, key in zip(lines, keys):  # the package believes the id that it reads
        need(line == Vkey(key.name, None, key.sig_type, key.pubkey).serialize(), f"malformed key {line}")
    return keys, len(keys)


def open_checkpoint(path, keys, tree=None):
    checkpoint, detail = read_checkpoint(path.read_bytes().decode(), keys, tree)
    need(not tree or checkpoint.size <= tree.size, f"size {checkpoint.size} is beyond the {tree and tree.size} entries")
    return checkpoint, detail


def read_checkpoint(text, keys, tree):
    """A checkpoint that the log signed, with a key that has the origin for its name: a witness's is not enough."""
    checkpoint = Checkpoint.from_text(text)
    need(checkpoint.serialize() == text, "malformed checkpoint")  # the package verifies what it read, not the text
    signers = [key for key in keys if key.name == checkpoint.origin and any(map(key.match, checkpoint.signatures))]
    need(signers, f"not signed by its origin {checkpoint.origin!r}")
    for key in signers:
        checkpoint.verify(key)
    if tree and checkpoint.size <= tree.size:  # or the log says one thing here, and there another
        need(tree.mth(0, checkpoint.size) == checkpoint.root_hash, f"{checkpoint.size} entries hash otherwise")
    return checkpoint, f"{checkpoint.origin}, size {checkpoint.size}, root {b64enc(checkpoint.root_hash)}"


def read_tree(directory, checkpoint):
    """Lets the package write a log of the same entries, and compares all files: none is wrong, missing or too many."""
    tree = TilesReader(LocalBackend(directory))
    tree.set_size(checkpoint.size)
    with tempfile.TemporaryDirectory() as scratch:
        writer = TilesWriter.create(Path(scratch) / "log", checkpoint.origin)
        for index in range(checkpoint.size):
            writer.add_leaf(tree.get_entry(index))
        writer.commit([])
        root = writer.reader.calculate_root_hash()
        need(root == checkpoint.root_hash, f"the entries hash to {b64enc(root)}, the checkpoint says otherwise")
        due = {str(f.relative_to(writer.root)): f.read_bytes() for f in writer.root.glob("tile/**/*") if f.is_file()}
    found = {str(f.relative_to(directory)): f.read_bytes() for f in directory.glob("tile/**/*") if f.is_file()}
    need(due.keys() <= found.keys(), f"missing: {due.keys() - found.keys()}")
    for path, data in found.items():
        if path in due:
            need(data == due[path], f"{path} is not what the entries make of it")
        else:  # a partial tile may stay when the log has grown, and is then the beginning of what took its place
            whole, _, width = path.partition(".p/")
            now = next((due[p] for p in due if width and p.partition(".p/")[0] == whole), b"")
            of = Tile.from_entries_bytes if path.startswith("tile/entries/") else Tile.from_hash_bytes
            need(now.startswith(data) and str(of(data).length) == width, f"{path} does not belong there")
    return tree, f"{checkpoint.size} entries, {len(found)} files"


def hashes(lines):
    need(all(len(line) == 44 and b64enc(b64dec(line)) == line for line in lines), "malformed hash")
    return [b64dec(line) for line in lines]


def check_consistency(path, old, new):
    proof = json.loads(path.read_bytes())
    need((proof["old_size"], proof["new_size"]) == (old.size, new.size), "of other sizes")
    for name, of in ("old_root", old), ("new_root", new):
        need(proof.get(name) in (None, b64enc(of.root_hash)), f"of another {name}")
    ConsistencyProof(old.size, new.size, hashes(proof["hashes"])).check(old.root_hash, new.root_hash)
    return None, f"{new.size} entries continue the {old.size}"


def check_proof(path, keys, tree):
    head, _, note = path.read_bytes().decode().partition("\n\n")
    checkpoint, detail = read_checkpoint(note, keys, tree)
    form = re.fullmatch(r"c2sp\.org/tlog-proof@v1\nextra (\S+)\nindex (0|[1-9][0-9]*)((?:\n\S+)*)", head)
    need(form, "not a tlog-proof with a leaf in it")
    extra, index = json.loads(b64dec(form[1])), int(form[2])
    proof = InclusionProof(index, checkpoint.size, hashes(form[3].split()))
    proof.check(leaf_hash(extra["leaf"].encode()), checkpoint.root_hash)
    # An opening shows what a commitment in the leaf stands for. This format is consentd's own, so no package has it.
    for opening in extra["openings"]:
        name, value, salt = opening["field"].encode(), opening["value"].encode(), bytes.fromhex(opening["salt"])
        opened = struct.pack(">H", len(name)) + name + struct.pack(">I", len(value)) + value + salt
        commitment = hashlib.sha256(b"consentd/field/v1\0" + opened).hexdigest()
        need(json.loads(extra["leaf"])["commitments"][opening["field"]] == commitment, f"opening of {opening['field']}")
    return None, f"entry {index} of {detail}, opens {', '.join(o['field'] for o in extra['openings'])}"


parser = argparse.ArgumentParser(description="Verifies an exported transparency log.")
parser.add_argument("dir", type=Path, nargs="?")
parser.add_argument("--vkey", type=Path, help="verifier keys, one a line (default: DIR/vkey)")
parser.add_argument("--proof", type=Path, action="append", default=[], help="a tlog-proof (may be repeated)")
parser.add_argument("--old-checkpoint", type=Path, help="an earlier checkpoint, which DIR must continue")
parser.add_argument("--consistency", type=Path, help="a proof of that, as JSON")
args = parser.parse_args()
old_alone = args.old_checkpoint and not args.dir or args.consistency and not args.old_checkpoint
if old_alone or not (args.dir or args.vkey and args.proof):
    parser.error("give DIR, or else --vkey and --proof; --consistency goes with --old-checkpoint")
keys, tree = check("keys", read_keys, args.vkey or args.dir / "vkey"), None
if args.dir:
    latest = check("checkpoint", open_checkpoint, args.dir / "checkpoint", keys)
    tree = check("tree", read_tree, args.dir, latest)
if args.old_checkpoint:
    old = check("old checkpoint", open_checkpoint, args.old_checkpoint, keys, tree)
if args.consistency:
    check("consistency", check_consistency, args.consistency, old, latest)
for path in args.proof:
    check(f"proof {path}", check_proof, path, keys, tree)
