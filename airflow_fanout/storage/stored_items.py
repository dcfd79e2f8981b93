"""What sources of stored items have in common: arguments, and the plan that cuts items into batches."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from airflow.sdk.definitions.xcom_arg import ResolveMixin  # type: ignore[attr-defined]

from airflow_fanout.exceptions import (
    DeclarationTypeError,
    DeclarationValueError,
    ItemsError,
    StoredItemsError,
)
from airflow_fanout.rules.items import BrokenItem
from airflow_fanout.rules.names import text_problem
from airflow_fanout.rules.wording import counted, typed
from airflow_fanout.storage.objects import compression_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from airflow_fanout.storage.pieces import Pieces


Place = dict[str, Any]
"""
Where some items of a batch lie, as JSON: ``path``, ``version`` and ``count``, and what their source needs.

``version`` pins the object: its ETag, or its size and time of change. ``only`` are the positions of the items
that run, where those between them are reused.
"""


class Cut(NamedTuple):
    """One batch of a plan: how many items, where they lie, in order, and their names if they have any."""

    count: int  # type: ignore[assignment]  # a tuple has a method of this name
    places: list[Place]
    names: list[str] | None


class Packing:
    """The batch that is being filled."""

    def __init__(self, size: int, *, has_names: bool) -> None:
        self._size, self._has_names = size, has_names
        self.count = 0
        self._places: list[Place] = []
        self._names: list[str] = []

    @property
    def room(self) -> int:
        """Number of items that the batch still takes."""
        return self._size - self.count

    def add(self, place: Place, names: Sequence[str]) -> None:
        """Put the items of a place into the batch."""
        self._places.append(place)
        self._names += names
        self.count += place["count"]

    def take(self) -> Cut:
        """Return the batch, and begin the next one."""
        cut = Cut(self.count, self._places, self._names if self._has_names else None)
        self.count, self._places, self._names = 0, [], []
        return cut


class StoredItems(ABC):
    """
    Items that lie in storage.

    ``split`` plans where those of each batch are, and each batch reads its own: no item passes through an
    XCom, and nothing takes memory for more than a batch.
    """

    templates: ClassVar[Sequence[str]] = ("path",)
    """Names of the attributes that a run renders."""

    path: Any
    name: str | None = None

    @property
    def owner(self) -> str:
        """How messages name the source."""
        return type(self).__name__

    @property
    def title(self) -> str:
        """What people are shown: ``CsvItems s3://raw/{{ ds }}/*.csv``."""
        return f"{self.owner} {self.path}" if isinstance(self.path, str) else self.owner

    @property
    def has_names(self) -> bool:
        """Whether the items have names of their own, and aren't numbered."""
        return self.name is not None

    @property
    def needs_pieces(self) -> bool:
        """Whether ``split`` has to write the items, as far as the arguments tell."""
        return isinstance(self.path, str) and compression_of(self.path) is not None

    def values_to_render(self) -> list[Any]:
        """Return what may hold templates, or outputs of tasks."""
        return [getattr(self, name) for name in self.templates]

    def rendered(self, render: Callable[[Any], Any]) -> Self:
        """Return the source as a run has it."""
        source = copy.copy(self)
        for name in self.templates:
            setattr(source, name, render(getattr(self, name)))
        source.check_rendered()
        return source

    def check_rendered(self) -> None:
        """Check what only a run knows."""
        self.path = _as_text(self.path)
        self._check_text("path", self.path)

    def _check_text(self, argument: str, value: object) -> None:
        if not isinstance(value, str) or not value.strip():
            message = f"{self.owner}: {argument}: expected a text that isn't empty, found {typed(value)}"
            raise ItemsError(message)

    @abstractmethod
    def fill(self, packing: Packing, pieces: Pieces) -> Iterator[tuple[Place, Sequence[str]]]:
        """Yield places of items, with their names, in order, each with no more than there is room for."""

    def plan(self, size: int, pieces: Pieces) -> Iterator[Cut]:
        """
        Cut the items into batches, with memory for one batch, whatever their number.

        :param size: Number of items in a batch.
        :param pieces: Takes the items of what can't be cut where it lies.
        :raises ItemsError: If the items can't be used.
        :raises StorageError: If the storage refuses.
        """
        packing = Packing(size, has_names=self.has_names)
        for place, names in self.fill(packing, pieces):
            packing.add(place, names)
            if not packing.room:
                yield packing.take()
        if packing.count:
            yield packing.take()

    @abstractmethod
    def read_place(self, place: Place) -> Sequence[Any]:
        """Read the items of a place; one that is broken by itself is a ``BrokenItem``."""

    def read(self, places: Iterable[Place]) -> list[Any]:
        """
        Read the items of a batch; each that has changed or vanished since it was planned is a ``BrokenItem``.

        :raises StorageError: If the storage refuses.
        """
        items: list[Any] = []
        for place in places:
            try:
                found = self.read_place(place)
                if len(found) != place["count"]:
                    problem = f"{counted(place['count'], 'item', 'items')} planned, {len(found)} read"
                    raise StoredItemsError(place["path"], problem)
            except StoredItemsError as error:
                found = [BrokenItem(error)] * place["count"]
            items += found if "only" not in place else map(found.__getitem__, place["only"])
        return items

    def identities(self, places: Iterable[Place]) -> list[Any]:
        """Return what tells each item from those of other runs: itself; a ``BrokenItem`` of a broken one."""
        return self.read(places)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        arguments = (f"{name}={value!r}" for name, value in vars(self).items() if value is not None)
        return f"{self.owner}({', '.join(arguments)})"


def declared_path(owner: str, path: object) -> Any:
    """Check a path that the author gave: a text, an ``ObjectStoragePath``, or the output of a task."""
    path = path if isinstance(path, ResolveMixin) else _as_text(path)
    if not isinstance(path, str | ResolveMixin):
        problem = f"expected a text or an ObjectStoragePath, found {typed(path)}"
        raise DeclarationTypeError(owner, "path", problem)
    if isinstance(path, str) and not path.strip():
        raise DeclarationValueError(owner, "path", "expected the path of an object, found an empty text")
    return path


def declared_name(owner: str, name: object) -> str | None:
    """Check the column that the items' names are in."""
    if name is not None and not isinstance(name, str):
        problem = f"expected the name of a column, found {typed(name)}"
        raise DeclarationTypeError(owner, "name", problem)
    if name == "":
        problem = "expected the name of a column, found an empty text; leave it out for numbered items"
        raise DeclarationValueError(owner, "name", problem)
    return name


def item_name(value: object, where: str, column: str) -> str:
    """Make an item's name of what stands in its column."""
    name = "" if value is None else str(value)
    if not name:
        message = (
            f"{where}: expected a name in {column!r}, found {'NULL' if value is None else 'an empty text'}"
        )
        raise ItemsError(message)
    if problem := text_problem(name):
        message = f"{where}: Airflow would refuse a name: {problem}"
        raise ItemsError(message)
    return name


def _as_text(path: object) -> object:
    """Write an ``ObjectStoragePath``, or a path of Python's, as a text."""
    if isinstance(path, str):
        return path
    from pathlib import PurePath

    from airflow.sdk import ObjectStoragePath

    return str(path) if isinstance(path, ObjectStoragePath | PurePath) else path
