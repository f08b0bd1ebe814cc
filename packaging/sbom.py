"""What is compiled into a program: a list for machines, and the licences for people.

cargo tree ----> which crates, with which versions     --> NAME.cdx.json.gz      CycloneDX 1.5
cargo metadata -> where their sources and licences are  --> NAME.third-party.txt.gz

The same source gives the same bytes: no time and no path of the machine is in them.
"""

import gzip
import hashlib
import json
import subprocess
import tomllib
from pathlib import Path

# Whole names, or beginnings of names, of the files in which crates keep licences.
LICENCE_FILES = ("license", "licence", "copying", "notice", "unlicense", "copyright")
TARGET = "x86_64-unknown-linux-gnu"


def pack(path: Path, text: str) -> None:
    """Writes it compressed; the time that a .gz may hold is left out, see above."""
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def _cargo(cargo: str, *words: str) -> str:
    return subprocess.run([cargo, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def crates(cargo: str, package: str) -> list[tuple[str, str]]:
    """(name, version) of all that is linked into a package, itself not; what only runs in the compiler is left out."""
    words = ["--locked", "--edges", "normal,no-proc-macro", "--target", TARGET, "--prefix", "none", "--format", "{p}"]
    listed = _cargo(cargo, "tree", "-p", package, *words)
    found = {tuple(line.split()[:2]) for line in listed.splitlines() if line and "(proc-macro)" not in line}
    return sorted((name, version.removeprefix("v")) for name, version in found if name != package)


class Sources:
    """What cargo knows of every crate, by name and version."""

    def __init__(self, cargo: str, project: Path):
        told = json.loads(_cargo(cargo, "metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET))
        self.packages = {(entry["name"], entry["version"]): entry for entry in told["packages"]}
        lock = tomllib.loads((project / "Cargo.lock").read_text())
        self.checksums = {(entry["name"], entry["version"]): entry.get("checksum") for entry in lock["package"]}

    def component(self, crate: tuple[str, str]) -> dict:
        name, version = crate
        entry, checksum = self.packages[crate], self.checksums[crate]
        reference = f"pkg:cargo/{name}@{version}"
        component = {"type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference}
        if entry["license"]:
            component["licenses"] = [{"expression": entry["license"].replace("/", " OR ")}]
        if checksum:
            component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        if entry["repository"]:
            component["externalReferences"] = [{"type": "vcs", "url": entry["repository"]}]
        return component

    def licences(self, crate: tuple[str, str]) -> list[str]:
        """The texts that came with a crate, also those of the C code that it brings."""
        folder = Path(self.packages[crate]["manifest_path"]).parent
        files = [path for path in [*folder.iterdir(), *folder.glob("*/*")] if path.is_file()]
        named = sorted(path for path in files if path.name.lower().startswith(LICENCE_FILES))
        return [path.read_text(errors="replace").strip() for path in named if path.suffix not in (".rs", ".json")]


def bill(sources: Sources, name: str, version: str, linked: list[tuple[str, str]]) -> dict:
    program = {"type": "application", "bom-ref": name, "name": name, "version": version}
    program["licenses"] = [{"license": {"id": "Apache-2.0"}}]
    components = [sources.component(crate) for crate in linked]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": program},
        "components": components,
        "dependencies": [{"ref": name, "dependsOn": [component["bom-ref"] for component in components]}],
    }


def notices(sources: Sources, linked: list[tuple[str, str]]) -> str:
    """Each text once, under the names of all crates that came with it."""
    owners: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    bare = []
    for crate in linked:
        entry = sources.packages[crate]
        title = f"{crate[0]} {crate[1]} ({entry['license'] or 'see its text'})"
        found = sources.licences(crate) if entry["source"] else []
        if entry["source"] and not found:
            bare.append(f"{title}, by {', '.join(entry['authors']) or 'its authors'}: {entry['repository']}")
        for text in found:
            key = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
            texts.setdefault(key, text)
            if title not in owners.setdefault(key, []):
                owners[key].append(title)
    parts = ["What is compiled in beside medevac's own code, and under which licences."]
    parts += ["\n".join([*owners[key], "", texts[key]]) for key in sorted(texts, key=lambda key: owners[key])]
    parts.append("\n".join(["Published without a text of their own; the licence is the one named:", "", *bare]))
    return f"\n\n{'=' * 80}\n\n".join(parts) + "\n"


def write(sources: Sources, cargo: str, package: str, name: str, version: str, folder: Path) -> None:
    """Both files of one program."""
    linked = crates(cargo, package)
    texts = {
        "cdx.json": json.dumps(bill(sources, name, version, linked), indent=1, sort_keys=True) + "\n",
        "third-party.txt": notices(sources, linked),
    }
    for ending, text in texts.items():
        pack(folder / f"{name}.{ending}.gz", text)
