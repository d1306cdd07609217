"""Where the images of a folder lie, and which split each folder of it is.

Hidden files and folders hold no images, nor do those that archives, file servers and
notebooks leave behind. A folder that links lead to twice is read once.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vae_sweep.errors import UserError

EXTENSIONS = (  # torchvision's
    *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),
)
JUNK = (  # lower case; besides names that begin with a dot
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "__pycache__"),
    *("system volume information", "thumbs.db", "desktop.ini"),
)
SPLITS = ("train", "val", "test")
# word in a folder's name -> its split: those that Hugging Face's datasets know, and what
# VOC calls its training images
WORDS = {
    **{"train": "train", "training": "train", "trainval": "train"},
    **{"val": "val", "valid": "val", "validation": "val", "dev": "val"},
    **{"test": "test", "testing": "test", "eval": "test", "evaluation": "test"},
}
FILLERS = (  # words that say nothing more: test_set, images-train, train_32x32
    *("set", "sets", "data", "dataset", "split", "folder", "files", "x"),
    *("image", "images", "img", "imgs", "pictures", "photos", "samples"),
)
DEEPEST = 8  # levels of folders in which splits are looked for
NAMED = 3  # folders that a line names


@dataclass
class Folder:
    """A folder that may hold images, with the folders in it, both sorted by name.

    `real` is its path without links.
    """

    path: str
    real: str
    images: list[str] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return os.path.basename(self.path)

    def below(self) -> Iterator["Folder"]:
        """The folder and all in it."""
        left = [self]
        while left:
            folder = left.pop()
            yield folder
            left += folder.folders

    def files(self) -> list[str]:
        """All images in the order of torchvision's ImageFolder: class by class, in each
        folder by folder. Those beside the class folders come first."""
        found = list(self.images)
        for each in self.folders:
            for folder in sorted(each.below(), key=lambda f: f.path):
                found += folder.images
        return found

    def holds_images(self) -> bool:
        """Whether it or a folder below it has an image."""
        return any(folder.images for folder in self.below())


class Layout(NamedTuple):
    """The image files of each split in order, where they lie, and what is not read."""

    splits: dict[str, list[str]]
    where: dict[str, str]
    ignored: str  # `20 .gif, 3 hidden`, or nothing
    notes: list[str]


def find(root: Path) -> Layout:
    """The layout of the folder `root`.

    Splits are the folders of one level whose names differ only in the word for the split
    (`train` and `valid`, `Training_Set` and `Test_Set`), one of them of training images;
    they may lie deeper (`images/train`) or in each class folder (`cat/train`). Where there
    are none, all images are training images.

    Raises:
        UserError: There are two folders for one split, or splits without training images,
            or no images.
        OSError: A folder cannot be listed.
    """
    scan = _Scan(str(root))
    division = _Division()
    division.divide(scan.top, depth=0)
    splits: dict[str, list[str]] = {}
    for split in SPLITS:
        folders = division.folders.get(split, [])
        if not folders:
            continue
        files = [file for folder in folders for file in folder.files()]
        splits[split] = _once(files, scan)
        if not splits[split]:
            others = f" ({said})" if (said := _said(scan.ignored)) else ""
            raise UserError(
                f"data.path must hold images ({', '.join(EXTENSIONS)}), in class folders "
                f"or directly, got none in {folders[0].path}{others}; set data.path=FOLDER"
            )
    where = {
        split: _where(scan.top, folders) for split, folders in division.folders.items()
    }
    for folder in division.beside:
        scan.ignored["beside the splits"] += len(folder.images)
    return Layout(splits, where, _said(scan.ignored), division.notes)


def _said(ignored: Counter[str]) -> str:
    """`20 .gif, 3 hidden`: the most first."""
    kinds = sorted(ignored.items(), key=lambda kind: (-kind[1], kind[0]))
    return ", ".join(f"{count} {what}" for what, count in kinds if count)


def _once(files: list[str], scan: "_Scan") -> list[str]:
    """Each file once, though links may lead to it again."""
    kept: dict[str, str] = {}
    for file in files:
        kept.setdefault(scan.real.get(file, file), file)
    scan.ignored["reached twice"] += len(files) - len(kept)
    return list(kept.values())


def _where(top: Folder, folders: list[Folder]) -> str:
    """`train/`, `cat/train/, dog/train/`, or what the whole folder is made of."""
    if folders == [top]:
        count = len([f for f in top.folders if f.holds_images()])
        if not count:
            return ""
        beside = f" and {len(top.images)} beside them" if top.images else ""
        return f"{count} folder{'s' if count > 1 else ''}{beside}"
    names = [os.path.relpath(f.path, top.path) + "/" for f in folders]
    more = f", {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


# --- what there is ---


class _Scan:
    """The tree of folders under `root`, and a count of the files that are no images.

    `real` has the images whose real path is another one, because a link leads to them.
    """

    def __init__(self, root: str):
        self.ignored: Counter[str] = Counter()
        self.real: dict[str, str] = {}
        self.top = Folder(root, os.path.realpath(root))
        self.seen = {self.top.real}
        self.links: list[tuple[Folder, str]] = []
        self._list(self.top)
        # after all others, so that a folder is read where it lies, not where a link is
        while self.links:
            parent, path = self.links.pop(0)
            self._follow(parent, path)
        for folder in self.top.below():
            folder.folders.sort(key=lambda f: f.name)

    def _list(self, top: Folder) -> None:
        left = [top]
        while left:
            folder = left.pop()
            with os.scandir(folder.path) as entries:
                for entry in sorted(entries, key=lambda e: e.name):
                    if entry.name.startswith(".") or entry.name.lower() in JUNK:
                        self._hide(entry)
                    elif _is_folder(entry):
                        if entry.is_symlink():
                            self.links.append((folder, entry.path))
                            continue
                        real = os.path.join(folder.real, entry.name)
                        child = Folder(entry.path, real)
                        self.seen.add(real)
                        folder.folders.append(child)
                        left.append(child)
                    else:
                        self._take(folder, entry)

    def _follow(self, parent: Folder, path: str) -> None:
        real = os.path.realpath(path)
        inside = f"{self.top.real}{os.sep}".startswith(f"{real.rstrip(os.sep)}{os.sep}")
        if real in self.seen or inside:  # a loop, or read already
            self.ignored["linked folders reached twice"] += 1
            return
        folder = Folder(path, real)
        self.seen.add(real)
        parent.folders.append(folder)
        self._list(folder)

    def _take(self, folder: Folder, entry: "os.DirEntry[str]") -> None:
        extension = os.path.splitext(entry.name)[1].lower()
        if extension not in EXTENSIONS:
            self.ignored[extension or "without extension"] += 1
        elif not (_is_file(entry) or entry.is_symlink()):  # a broken link is said later
            self.ignored["special files"] += 1
        else:
            folder.images.append(entry.path)
            if entry.is_symlink():
                self.real[entry.path] = os.path.realpath(entry.path)
            elif folder.real != folder.path:
                self.real[entry.path] = os.path.join(folder.real, entry.name)

    def _hide(self, entry: "os.DirEntry[str]") -> None:
        """Counts what a hidden entry holds."""
        if entry.is_symlink() or not _is_folder(entry):
            self.ignored["hidden"] += 1
            return
        for _, _, files in os.walk(entry.path):  # without those that cannot be listed
            self.ignored["hidden"] += len(files)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


# --- which split it is ---


class _Division:
    """The folders of each split, those beside them, and what a person should know."""

    def __init__(self) -> None:
        self.folders: dict[str, list[Folder]] = {}
        self.beside: list[Folder] = []
        self.notes: list[str] = []

    def divide(self, folder: Folder, depth: int) -> None:
        """Sorts `folder` and all in it into splits."""
        named = _named(folder)
        if named:
            self._split(folder, named, depth)
            return
        holding = [f for f in folder.folders if f.holds_images()]
        deeper = depth < DEEPEST and [f for f in holding if _has_splits(f, depth + 1)]
        if deeper:
            for each in deeper:
                self.divide(each, depth + 1)
            self._leave([f for f in holding if f not in deeper], folder)
            return
        if depth == 0:
            folder = self._without_splits(folder, holding)
        self.folders.setdefault("train", []).append(folder)

    def _split(self, folder: Folder, named: dict[str, Folder], depth: int) -> None:
        self._leave([f for f in folder.folders if f not in named.values()], folder)
        train = named["train"]
        if depth < DEEPEST and _has_splits(train, depth + 1):
            inner = _Division()
            inner.divide(train, depth + 1)
            both = [split for split in inner.folders if split != "train" and split in named]
            if both:
                _refuse_two(both[0], [named[both[0]], *inner.folders[both[0]]])
            self.beside += inner.beside
            for split, folders in inner.folders.items():
                self.folders.setdefault(split, []).extend(folders)
        else:
            self.folders.setdefault("train", []).append(train)
        for split, each in named.items():
            if split != "train":
                self.folders.setdefault(split, []).append(each)

    def _leave(self, others: list[Folder], folder: Folder) -> None:
        """Leaves out `others` and the images directly in `folder`."""
        self.beside += [below for other in others for below in other.below()]
        self.beside.append(Folder(folder.path, folder.real, folder.images))

    def _without_splits(self, top: Folder, holding: list[Folder]) -> Folder:
        """The folder of all images; says or refuses what looks like a split but is none."""
        stated = {f.name: _split_of(f.name) for f in holding}
        splits = {name: of[0] for name, of in stated.items() if of and not of[1]}
        others = len(holding) - len(splits) + bool(top.images)
        names = ", ".join(f"{name}/" for name in splits)
        if splits and not others:
            if set(splits.values()) == {"train"}:
                return holding[0] if len(holding) == 1 else top
            raise UserError(
                f"data.path must hold training images, got {top.path} with {names} but no "
                f"train/;\nadd train/, or set data.path to the folder to train on"
            )
        if splits:
            missing = "train/" if "train" not in splits.values() else "val/ or test/"
            self.notes.append(
                f"{names} taken for class folders like the others, as there is no "
                f"{missing} beside"
            )
        return top


def _has_splits(folder: Folder, depth: int) -> bool:
    if _named(folder):
        return True
    return depth < DEEPEST and any(_has_splits(f, depth + 1) for f in folder.folders)


def _named(folder: Folder) -> dict[str, Folder]:
    """split -> the folder directly in `folder` that its name says is the split.

    Empty where there is no training split beside another one. Raises UserError where two
    folders are the same split.
    """
    series: dict[tuple[str, ...], dict[str, list[Folder]]] = {}
    for each in folder.folders:
        found = _split_of(each.name)
        if found:
            split, rest = found
            series.setdefault(rest, {}).setdefault(split, []).append(each)
    whole = [s for s in series.values() if "train" in s and len(s) > 1]
    if len(whole) > 1:
        _refuse_two("train", [f for s in whole for f in s["train"]])
    for split, folders in whole[0].items() if whole else ():
        if len(folders) > 1:
            _refuse_two(split, folders)
    return {split: folders[0] for split, folders in whole[0].items()} if whole else {}


def _refuse_two(split: str, folders: list[Folder]) -> None:
    raise UserError(
        f"data.path must hold one folder of {split} images, got "
        f"{' and '.join(f.path for f in folders)};\nmove all but one elsewhere, or set "
        f"data.path to a folder that holds one"
    )


def _split_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The split that a folder's name states, and what else the name says; or None."""
    words: list[str] = [
        w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    ]
    glued = {word + filler: word for word in WORDS for filler in FILLERS}  # trainset
    words = [glued.get(word, word) for word in words]
    rest = tuple(w for w in words if w not in WORDS and w not in FILLERS)
    splits = {WORDS[word] for word in words if word in WORDS}
    if splits == {"train", "val"}:  # train_val
        splits = {"train"}
    return (splits.pop(), rest) if len(splits) == 1 else None
