"""Multipart forms, read from memory: Starlette's own reader puts files above 1 MB on disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from longview.serving.problems import ProblemError

_FIELD = 16_384  # bytes of a field that is no file
_FIELDS = 32
_HEADERS = 8_192  # bytes of a part's headers


@dataclass
class Form:
    """What a form holds; names of files are not kept, since they may be names of patients.

    Args:
        fields: Name -> its last value.
        files: Name of the field and content, in order.
    """

    fields: dict[str, str] = field(default_factory=dict)
    files: list[tuple[str, bytes]] = field(default_factory=list)


def read_form(body: bytes, content_type: str, max_files: int) -> Form:
    """Read a multipart form.

    Args:
        body: The request's body.
        content_type: Its header, which names the boundary.
        max_files: Most files in it.

    Raises:
        ProblemError: 415 for another type, 400 for a damaged form, 413 for too many or too long fields.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ProblemError(415, "Send the films as multipart/form-data, with a boundary.")
    reader = _Reader(max_files)
    try:
        parser = MultipartParser(options[b"boundary"], reader.callbacks())  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise ProblemError(400, "The multipart form is damaged.") from error
    if not reader.ended:
        raise ProblemError(400, "The multipart form is cut off.")
    return reader.form


class _Reader:
    """Takes what the parser finds."""

    def __init__(self, max_files: int) -> None:
        self.form = Form()
        self.ended = False
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
        if self._is_file and len(self.form.files) >= self._max_files:
            raise ProblemError(413, f"A request holds at most {self._max_files} films.")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file and len(self._content) + end - start > _FIELD:
            raise ProblemError(413, f"A field of the form is longer than {_FIELD} bytes.")
        self._content += memoryview(data)[start:end]

    def _end(self) -> None:
        if self._is_file:
            self.form.files.append((self._name, bytes(self._content)))
        else:
            self.form.fields[self._name] = self._content.decode("utf-8", "replace")
        self._content = bytearray()

    def _finish(self) -> None:
        self.ended = True
