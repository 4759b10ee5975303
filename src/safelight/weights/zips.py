"""Where the members of an uncompressed zip lie, from its directory alone."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from safelight.errors import BadInput
from safelight.weights.stored import WeightFile

LONGEST = 16 << 20  # bytes of directory: two hundred thousand members
END = struct.Struct(
    "<4s4H2LH"
)  # mark, disk, disk, members here, members, bytes and place of the directory, comment
MEMBER = struct.Struct(
    "<4s6H3L5H2L"
)  # …, 3 flags, 4 method, …, 8 packed, 9 unpacked, 10 name, 11 extra, 12 comment, …


@dataclass(frozen=True)
class Member:
    """One file in the zip: where its local header begins, and its length in bytes."""

    source: WeightFile
    name: str
    header: int
    size: int
    plain: bool  # neither compressed nor encrypted

    def place(self) -> int:
        """Where its bytes begin. BadInput if they are compressed or not all there."""
        where = f"{self.source.where}: {self.name[:200]}"
        if not self.plain:
            raise BadInput(
                f"{where} is compressed; wanted it stored as it is: save the file anew with "
                "PyTorch."
            )
        local = self.source.read(self.header, 30)
        if len(local) < 30 or local[:4] != b"PK\3\4":
            raise BadInput(f"{where} is not where the zip's directory says; get the file again.")
        name, extra = struct.unpack_from("<2H", local, 26)
        start: int = self.header + 30 + name + extra
        if start + self.size > self.source.size:
            raise BadInput(f"{where} goes beyond the end of the file; get the file again.")
        return start


def members(source: WeightFile) -> Mapping[str, Member]:
    """What a zip holds, by name. BadInput if its directory is not whole, too long, or names
    something twice."""
    where = source.where
    length, place = _directory(source)
    if length > LONGEST:
        raise BadInput(
            f"{where} has a zip directory of {length:,} bytes; wanted at most {LONGEST:,}."
        )
    data, at, found = source.read(place, length), 0, {}
    while data[at : at + 4] == b"PK\1\2" and at + MEMBER.size <= len(data):
        fields = MEMBER.unpack_from(data, at)
        flags, method, (packed, size, name_length, extra_length, comment) = (
            fields[3],
            fields[4],
            fields[8:13],
        )
        name_end = at + MEMBER.size + name_length
        name, extra = (
            data[at + MEMBER.size : name_end].decode(errors="replace"),
            data[name_end:][:extra_length],
        )
        size, packed, header = _wide(extra, size, packed, fields[16])
        if name in found:
            raise BadInput(f"{where} holds {name[:200]} twice; which one counts cannot be known.")
        found[name] = Member(
            source, name, header, size, method == 0 and not flags & 1 and packed == size
        )
        at = name_end + extra_length + comment
    if not found or at != length:
        raise BadInput(f"{where} has a zip directory that is not whole; get the file again.")
    return found


def _directory(source: WeightFile) -> tuple[int, int]:
    """The length and the place of the directory, which the end of the file tells."""
    tail_at = max(0, source.size - (1 << 16) - END.size)
    tail = source.read(tail_at, source.size - tail_at)
    end = tail.rfind(b"PK\5\6")
    if end < 0 or end + END.size > len(tail):
        raise BadInput(f"{source.where} is a zip that ends early; get the file again.")
    length, place = END.unpack_from(tail, end)[5:7]
    locator = source.read(tail_at + end - 20, 20) if tail_at + end >= 20 else b""
    if locator[:4] == b"PK\6\7":
        record = source.read(struct.unpack_from("<Q", locator, 8)[0], 56)
        if len(record) == 56 and record[:4] == b"PK\6\6":
            length, place = struct.unpack_from("<2Q", record, 40)
    return length, place


def _wide(extra: bytes, *values: int) -> list[int]:
    """The values, those of them that do not fit into 32 bits from the extra field for them."""
    wide, at = b"", 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = extra[at + 4 : at + 4 + length]
        at += 4 + length
    rest = iter([one for (one,) in struct.iter_unpack("<Q", wide[: len(wide) // 8 * 8])])
    return [next(rest, one) if one == 0xFFFFFFFF else one for one in values]
