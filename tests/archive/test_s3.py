"""An archive in S3: rclone's server, which checks signatures."""

from __future__ import annotations

import socket

import pytest
from archived_months import JANUARY, SMALL, Months
from pydantic import ValidationError
from support.s3 import Endpoint

from taximeter.settler.archive.compare import Compared, compare_archives
from taximeter.settler.archive.months import archive_month, restore_month
from taximeter.settler.archive.places import ArchiveError, ArchiveUnread, NothingThere, open_place
from taximeter.settler.books.settings import StoreSettings


async def test_a_month_goes_there_and_comes_back(months: Months, bucket: str) -> None:
    months.place = open_place(bucket)
    part = await archive_month(months.conn, months.place, JANUARY, SMALL)
    assert await months.has(JANUARY) == 0
    assert await months.everything() == months.written
    names = months.place.names("2025-01")
    assert part.manifest in names
    assert len(names) == 4
    assert await compare_archives(months.conn, months.place, files=True) == Compared()
    file = names[0]
    content = months.place.read(file)
    months.place.write(file, content[:-1])
    (wrong,) = (await compare_archives(months.conn, months.place, files=True)).wrong
    assert "is not what was written" in wrong
    with pytest.raises(ArchiveError, match=r"^2025-01/not-there is missing$"):
        months.place.read("2025-01/not-there")
    months.place.write(file, content)
    assert await restore_month(months.conn, months.place, JANUARY) == 30
    assert months.place.names("2024-12") == []


async def test_what_cannot_be_read_is_not_called_wrong(
    months: Months, bucket: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is away, refuses us, or is another one says nothing about the archive."""
    months.place = open_place(bucket)
    part = await archive_month(months.conn, months.place, JANUARY, SMALL)
    with pytest.raises(ArchiveError, match="is missing") as missing:
        months.place.read("2025-01/other")
    assert not isinstance(missing.value, ArchiveUnread)
    for url in (f"{bucket}-other", "s3://no-such-bucket/x"):
        with pytest.raises(NothingThere, match="is it the right one"):
            open_place(url).read(part.manifest)
    with socket.socket() as closed:  # Nobody listens there.
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        for changed, value in (
            ("AWS_SECRET_ACCESS_KEY", "another-secret"),
            ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"),
        ):
            with monkeypatch.context() as patched:
                patched.setenv(changed, value)
                for files in (False, True):
                    found = await compare_archives(months.conn, open_place(bucket), files=files)
                    assert found.wrong == []
                    assert "cannot be used" in found.unread[0]


async def test_what_goes_wrong_says_no_secret(
    bucket: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    with pytest.raises(ArchiveError, match="a-file cannot be used: ") as found:
        open_place(bucket).write("a-file", b"x")
    assert "another-secret" not in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://key:secret@bucket/x", "must not hold credentials"),
        ("s3://bucket/x?secret=1", "must be a folder or s3://bucket/prefix"),
        ("s3://", "must be a folder or s3://bucket/prefix"),
        ("https://bucket/x", "must be a folder or s3://bucket/prefix"),
        (" ", "must be a folder or s3://bucket/prefix"),
    ],
)
def test_a_url_has_no_credentials(url: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as found:
        StoreSettings(archive_url=url)
    assert "secret@" not in str(found.value)


def test_an_archive_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process says so before it does anything."""
    monkeypatch.setattr("taximeter.settler.books.settings.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=r"needs the package pyarrow: .*\[archive\]"):
        StoreSettings(archive_url="/archive")
    assert StoreSettings().archive_url is None
