"""The same files as a folder and as a zip."""

import pytest

from layouts import write_folder, write_zip


@pytest.fixture(params=["folder", "zip"])
def place(request, tmp_path):
    """Makes a folder, or a zip, of named files."""

    def make(files):
        path = tmp_path / f"data.{request.param}"
        data = {
            name: text.encode() if isinstance(text, str) else text for name, text in files.items()
        }
        write_folder(path, data) if request.param == "folder" else write_zip(path, data)
        return str(path)

    return make
