"""Multipart forms, read from memory: Starlette's own reader puts files above 1 MB on disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from longview.serving.problems import ProblemError

_FIELD = 16_384  # bytes of a field that is no file
_FIELDS = 32
_HEADERS = 8_192  # bytes of a part's headers
_WORD = re.compile(r"[A-Za-z_][\w.-]{0,39}", re.ASCII)


@dataclass(frozen=True)
class Layout:
    """The fields that a form may have.

    Args:
        films: Names of the one of films; messages say the first.
        once: Names of those that come once.
        lists: Names of those that may be repeated, which is as if their values were separated by commas.
    """

    films: Sequence[str]
    once: Sequence[str] = ()
    lists: Sequence[str] = ()


@dataclass
class Form:
    """What a form holds; names of files are not kept, since they may be names of patients.

    Args:
        fields: Name -> its value.
        films: Contents of the films, in order.
    """

    fields: dict[str, str] = field(default_factory=dict)
    films: list[bytes] = field(default_factory=list)


def read_form(body: bytes, content_type: str, max_files: int, layout: Layout) -> Form:
    """Read a multipart form.

    Args:
        body: The request's body.
        content_type: Its header, which names the boundary.
        max_files: Most films in it.
        layout: Its fields.

    Raises:
        ProblemError: 415 for another type, 400 for a damaged form, 413 for too many or too long fields, 422 for a
            field that the form does not have, or has once.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ProblemError(415, "Send the films as multipart/form-data, with a boundary.")
    reader = _Reader(max_files, layout)
    try:
        parser = MultipartParser(options[b"boundary"], reader.callbacks())  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise ProblemError(400, "The multipart form is damaged.") from error
    if not reader.ended:
        raise ProblemError(400, "The multipart form is cut off.")
    return _placed(reader, layout)


def no_such_field(name: str, known: Sequence[str]) -> ProblemError:
    """The refusal of a field that is not known, which names it if that is one short word: no more is sent back."""
    subject = f"{name}: there is no such field" if _WORD.fullmatch(name) else "A field is not known"
    return ProblemError(422, f"{subject}; there are {', '.join(known)}.")


def _placed(reader: _Reader, layout: Layout) -> Form:
    """What was read, where it belongs: nothing is left out.

    Raises:
        ProblemError: 422.
    """
    for name, _ in reader.films:
        if name not in layout.films:
            subject = name if _WORD.fullmatch(name) else "A film"
            raise ProblemError(422, f"{subject}: films go in the field {layout.films[0]}, under no other name.")
    form = Form(films=[content for _, content in reader.films])
    for name, value in reader.texts:
        if name not in (*layout.once, *layout.lists):
            raise no_such_field(name, (layout.films[0], *layout.lists, *layout.once))
        if name in form.fields and name in layout.once:
            raise ProblemError(422, f"{name}: give it once.")
        form.fields[name] = f"{form.fields[name]},{value}" if name in form.fields else value
    return form


class _Reader:
    """Takes what the parser finds."""

    def __init__(self, max_files: int, layout: Layout) -> None:
        self.texts: list[tuple[str, str]] = []
        self.films: list[tuple[str, bytes]] = []
        self.ended = False
        self._layout = layout
        self._max_files = max_files
        self._parts = 0

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > self._max_files + _FIELDS:
            raise ProblemError(
                413, f"The form has too many parts; at most {_FIELDS} fields and {self._max_files} films."
            )
        self._content, self._key, self._value, self._disposition = bytearray(), bytearray(), bytearray(), b""
        self._length = 0

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._key += self._counted(data, start, end)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._counted(data, start, end)

    def _counted(self, data: bytes, start: int, end: int) -> bytes:
        self._length += end - start
        if self._length > _HEADERS:
            raise ProblemError(413, "The headers of a part of the form are too long.")
        return data[start:end]

    def _header_end(self) -> None:
        if self._key.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._key, self._value = bytearray(), bytearray()

    def _headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise ProblemError(400, "A part of the form has no name.")
        self._name = options[b"name"].decode("utf-8", "replace")
        self._is_file = b"filename" in options
        if self._is_file and len(self.films) >= self._max_files:
            raise ProblemError(413, f"A request holds at most {self._max_files} films.")
        if not self._is_file and self._name in self._layout.films:
            raise ProblemError(
                422,
                f"{self._name}: send the film as a file, with a file name, as curl's -F {self._name}=@film.png does.",
            )

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file and len(self._content) + end - start > _FIELD:
            raise ProblemError(413, f"A field of the form is longer than {_FIELD} bytes.")
        self._content += memoryview(data)[start:end]

    def _end(self) -> None:
        if self._is_file:
            self.films.append((self._name, bytes(self._content)))
        else:
            self.texts.append((self._name, self._content.decode("utf-8", "replace")))
        self._content = bytearray()

    def _finish(self) -> None:
        self.ended = True
