"""Stages: pieces of work with a content key, a folder and a manifest that is written last.

A key is the hash of everything that may change the result, so "the same command again" finds what is done (cached), what was
begun (resume) and what is missing (run). A crash leaves a folder without manifest: something to resume, never a wrong result.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from synthbench import __version__, console
from synthbench.system import locked, take
from synthbench.types import UserError

MANIFEST = "manifest.json"
BLOCKS, BLOCK = 8, 4096  # what `sampled` reads of a file: small ones whole
STALE = 3600.0  # seconds since it was last written to, after which a temporary file is nobody's: its writer was killed
TEMPORARY = r"\.\d+-[0-9a-f]{8}\.tmp"  # how names end that `writing` makes
LEFTOVER = rf".+{TEMPORARY}|\.tmp\w{{6}}"  # of `writing`, and of safetensors, which writes beside the file that it was told
LONGEST = 2**28  # bytes of a text of ours
ROOM = 2**20  # bytes below which a disk or a file counts as full
NUMBERS = ("amount", "images", "images_per_second")  # of a manifest
TEXTS = ("name", "work", "label", "unit", "host", "finished", "synthbench")
REWRITTEN = ("packed.json",)  # names the times of shards, so that a copied folder writes it anew


def content_key(parts: Mapping[str, Any]) -> str:
    """SHA-256 (first 20 hex digits) of the canonical JSON of `parts`. Floats are written shortest-exact; key order does not matter."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def write_json(path: Path, data: Any) -> None:
    """Write by rename: readers see the old file or the new one, never half of one."""
    text = json.dumps(data, indent=1, sort_keys=False, allow_nan=False) + "\n"
    with writing(path) as tmp:
        tmp.write_text(text, "utf-8")


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary file that becomes `path` when the block ends well, else nothing stays. Its name is nobody else's: any number may write.

    What killed processes left of the same file is deleted by age: a lock beside every file would be one more file to leave behind, and a
    process number means nothing on another host that shares the disk. In a stage, whose lock is held, its builder deletes it at once.
    Raises OSError when the disk is full: torch and safetensors have errors of their own for it.
    """
    _drop_temporaries(path.parent, re.escape(path.name) + TEMPORARY, STALE)
    if path.is_dir():
        raise UserError(f"{path} is a folder, where a file is to be written; delete it, and run the same command again")
    if path.exists() and not path.is_file():  # it would be replaced, were we allowed to
        raise UserError(f"{path} is a device, a pipe or a socket; give the name of a file to write")
    tmp = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        yield tmp
        os.replace(tmp, path)
    except Exception as error:
        if getattr(error, "errno", None) is None and (reason := _no_room(tmp)):
            raise OSError(reason, os.strerror(reason), str(path)) from error
        raise
    finally:
        tmp.unlink(missing_ok=True)


def append(path: Path, text: str) -> None:
    """Add `text` to the end of a file of ours. Raises OSError where a link has its name: what that leads to is somebody else's."""

    def itself(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    with open(path, "a", encoding="utf-8", opener=itself) as file:
        file.write(text)


def _no_room(tmp: Path) -> int:
    """The error number of a full disk, or of a limit on the size of files (`ulimit -f`); 0 where there is room."""
    if shutil.disk_usage(tmp.parent).free < ROOM:
        return errno.ENOSPC
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return 0
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    written = tmp.stat().st_size if tmp.exists() else 0
    return errno.EFBIG if limit != resource.RLIM_INFINITY and written + ROOM > limit else 0


def _drop_temporaries(folder: Path, pattern: str = LEFTOVER, age: float = 0.0) -> None:
    """Delete what killed writers left in `folder`, of files whose name matches, when nobody has written to it for `age` seconds."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if re.fullmatch(pattern, entry.name, re.DOTALL):
                with suppress(OSError):  # it was somebody's, and has become the file
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > age:
                        os.unlink(entry)


def remove(folder: Path) -> None:
    """Delete a folder. It is moved out of sight before, so that a crash cannot leave half of it where something looks for it."""
    if folder.exists():
        doomed = folder.with_name(f".deleted-{os.getpid()}-{os.urandom(4).hex()}")
        doomed.mkdir()
        os.replace(folder, doomed / folder.name)
        for leftover in folder.parent.glob(".deleted-*/*"):  # of a process that was killed too; to delete one twice does no harm
            shutil.rmtree(leftover, ignore_errors=True)
            with suppress(OSError):
                leftover.parent.rmdir()


def is_inside(name: Any) -> bool:
    """Whether `name`, read from a file, may become a path below a folder of ours: relative, plain, and without a way out."""
    if not isinstance(name, str) or "\0" in name:
        return False
    path = PurePath(name)
    return bool(path.parts) and not path.anchor and ".." not in path.parts and str(path) == name


def is_name(name: Any) -> bool:
    """Whether `name`, read from a file, may become a file or folder in a folder of ours."""
    return is_inside(name) and len(PurePath(name).parts) == 1


def read_json(path: Path) -> Any:
    """The JSON in `path`, or None when it is absent or not whole."""
    try:
        return parse_json(read_text(path))
    except (OSError, ValueError):
        return None


def read_text(path: Path) -> str:
    """The text of a file of ours. Raises OSError, and ValueError for what is none: a pipe, which never ends, or a file without an end."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode) or about.st_size > LONGEST:
        raise ValueError(f"{path} is no text of ours")
    return path.read_text("utf-8")


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The mappings in a log of a mapping a line; lines that are not whole are left out, and so is a log that cannot be read."""
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        with suppress(ValueError):
            if isinstance(found := parse_json(line), dict):
                yield found


def is_texts(value: Any) -> bool:
    """Whether `value`, read from a file, is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_number(value: Any) -> bool:
    """Whether `value`, read from a file, is a number that can be reckoned with."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def parse_json(text: str) -> Any:
    """Raises ValueError for what is no JSON, or nests too deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def sampled(path: Path) -> str:
    """Digest of some blocks of a file, evenly spread, to notice one that was overwritten or lost its content in a power cut."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        last = max(0, os.fstat(file.fileno()).st_size - BLOCK)
        for place in sorted({last * i // (BLOCKS - 1) for i in range(BLOCKS)}):
            file.seek(place)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Stage:
    """One cached piece of work: `name` says what, `key` which."""

    name: str
    key: str
    folder: Path

    def manifest(self) -> dict[str, Any] | None:
        """What was recorded when the stage was finished; None unless it is whole: every file there, with its size and samples."""
        manifest = self._recorded()
        return manifest if manifest and not any(self._damaged(manifest)) else None

    def _recorded(self) -> dict[str, Any] | None:
        manifest = read_json(self.folder / MANIFEST)
        whole = isinstance(manifest, dict) and manifest.get("key") == self.key
        whole = whole and isinstance(manifest.get("files"), dict) and isinstance(manifest.get("samples", {}), dict)
        whole = whole and all(map(is_inside, manifest["files"])) and all(type(size) is int for size in manifest["files"].values())
        return manifest if whole and _sane(manifest) else None

    def _damaged(self, manifest: dict[str, Any]) -> Iterator[Path]:
        """The files that are not as the manifest says."""
        samples = manifest.get("samples", {})
        for name, length in manifest["files"].items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != length or (name in samples and sampled(path) != samples[name]):
                yield path

    @property
    def state(self) -> str:
        """`cached`, `resume` or `run`."""
        if self.manifest():
            return "cached"
        return "resume" if self.folder.is_dir() and any(self.folder.iterdir()) else "run"

    @contextmanager
    def building(self) -> Iterator[dict[str, Any] | None]:
        """Hold the stage's lock and its folder; publish the manifest when the block ends well.

        Yields a dict for facts to be kept in the manifest (device, amount of work), or None when another process has
        finished the stage in the meantime.
        """
        with self.locked():
            if self.manifest():
                yield None
                return
            self.folder.mkdir(exist_ok=True)
            before, start = self._spent(), time.time()
            write_json(self._leg, {"before": before, "start": start})
            self._drop_damage()
            for folder in (self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())):
                _drop_temporaries(folder)
            facts: dict[str, Any] = {}
            yield facts
            self._publish(before + time.time() - start, facts)
            self._leg.unlink(missing_ok=True)

    @contextmanager
    def locked(self, wait: bool = True) -> Iterator[None]:
        """Nobody else builds or forgets the stage. Raises BlockingIOError when somebody does, unless told to wait."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        place = self.folder.with_name(self.folder.name + ".lock")
        holder = self.folder.with_name(self.folder.name + ".holder")  # not in the lock, which nobody else may read on Windows

        def told() -> None:
            if not wait:
                raise BlockingIOError
            who = ""
            with suppress(OSError):
                who = holder.read_text("utf-8")
            console.note(f"{self.name}: another process ({who or 'unknown'}) is building this stage; waiting for it")

        with locked(place, told, every=0.5):
            holder.write_text(f"pid {os.getpid()} on {platform.node()}", "utf-8")
            try:
                yield
            finally:
                holder.unlink(missing_ok=True)

    @staticmethod
    def is_locked(lock: Path) -> bool:
        """Whether a process holds the lock file `lock`."""
        held = take(lock) if lock.exists() else None
        if held:
            with held:
                pass
        return lock.exists() and held is None

    @property
    def _leg(self) -> Path:
        """Beside the folder while the stage is being built: {"before": seconds of earlier builds, "start": of this one}."""
        return self.folder.with_name(self.folder.name + ".leg.json")

    def spent(self) -> float:
        """Seconds of builds that were cut short, as far as the next one goes on from them; 0 for a stage that was whole and is damaged."""
        return 0.0 if self._recorded() else self._spent()

    def _spent(self) -> float:
        """Seconds that earlier builds of the stage took. One that was killed counts until the last file it wrote."""
        if recorded := self._recorded():
            return float(recorded.get("seconds", 0.0))
        leg = read_json(self._leg)
        if not (isinstance(leg, dict) and is_number(leg.get("before")) and is_number(leg.get("start"))):
            return 0.0
        last = max((path.stat().st_mtime for path in self.folder.rglob("*")), default=0.0)
        return float(leg["before"] + max(0.0, last - leg["start"]))

    def _drop_damage(self) -> None:
        """What is left of a damaged stage is built on; a damaged file is not, lest its builder take it for finished."""
        home = self.folder.resolve()
        for path in self._damaged(self._recorded() or {"files": {}}):
            if path.is_file() and path.parent.resolve().is_relative_to(home):  # not through a link to a folder elsewhere
                path.unlink()
        (self.folder / MANIFEST).unlink(missing_ok=True)

    def _publish(self, seconds: float, facts: dict[str, Any]) -> None:
        for leftover in self.folder.rglob("*.tmp"):
            leftover.unlink()
        files = {str(path.relative_to(self.folder)): path for path in sorted(self.folder.rglob("*")) if path.is_file()}
        manifest = {
            "name": self.name,
            "key": self.key,
            "seconds": round(seconds, 3),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "synthbench": __version__,
            "host": platform.node(),
            **facts,
            "files": {name: path.stat().st_size for name, path in files.items()},
            "samples": {name: sampled(path) for name, path in files.items() if path.name not in REWRITTEN},
        }
        write_json(self.folder / MANIFEST, manifest)


def _sane(manifest: dict[str, Any]) -> bool:
    """Whether what is reckoned with and shown of a manifest is numbers and text."""
    numbers = [manifest.get("seconds"), *(manifest.get(name) or 0 for name in NUMBERS)]
    return all(map(is_number, numbers)) and is_texts([manifest.get(name, "") for name in TEXTS])


@dataclass(frozen=True)
class Seen:
    """What one stage took."""

    label: str
    unit: str
    amount: float  # of work
    rate: float  # seconds per unit
    finished: str  # UTC


@dataclass(frozen=True)
class Store:
    """The runs folder: `stages/<name>/<key>/` and `results/<run>/`."""

    root: Path

    def stage(self, name: str, key: str) -> Stage:
        return Stage(name, key, self.root / "stages" / name / key)

    def forget(self, stage: Stage, wait: bool = True) -> bool:
        """Set a stage back to `run`; False, and nothing done, when somebody builds it and we do not `wait` for that."""
        try:
            with stage.locked(wait):
                stage._leg.unlink(missing_ok=True)
                remove(stage.folder)
        except BlockingIOError:
            return False
        return True

    def seen(self) -> Iterator[Seen]:
        """What earlier stages on this machine took, in no order; those that were built in one go."""
        for path in (self.root / "stages").glob(f"*/*/{MANIFEST}"):
            manifest = read_json(path)
            if not (isinstance(manifest, dict) and {"label", "host", "amount", "unit", "seconds"} <= manifest.keys() and _sane(manifest)):
                continue
            if manifest["host"] == platform.node() and manifest["amount"]:
                rate = manifest["seconds"] / manifest["amount"]
                yield Seen(manifest["label"], manifest["unit"], manifest["amount"], rate, manifest.get("finished", ""))

    def require_space(self, needed: int) -> None:
        """Raises UserError when the disk has less than `needed` bytes free."""
        folder = self.root
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"this needs about {console.size(needed)} in {self.root}, and {console.size(free)} are free there. "
                "Take a smaller --volume, or another folder with --runs"
            )
