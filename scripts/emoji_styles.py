"""The public repositories and the five styles of the sticker set, at pinned commits."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A public repository at one commit, and the files of it that are needed."""

    repository: str
    commit: str
    wanted: str  # a regular expression over whole paths

    @property
    def name(self) -> str:
        return self.repository.split("/")[1]

    @property
    def archive(self) -> str:
        return f"https://github.com/{self.repository}/archive/{self.commit}.tar.gz"


EMOJIBASE = Source(
    "milesj/emojibase",
    "a5fc630a91ca42cddf3f4a66492965600fd3bce8",
    r"LICENSE|packages/data/(en/data\.raw|meta/groups)\.json",
)
FLUENT = Source(
    "shuding/fluentui-emoji-unicode",
    "7a40f1a2d064d76e436813edc0f09b6c8cde5da8",
    r"LICENSE|assets/[0-9a-f-]+_3d\.png",
)
NOTO = Source(
    "googlefonts/noto-emoji",
    "b3e3051a088047d19fd4d49b1c3ac42fb8c3aaf8",
    r"LICENSE|svg/LICENSE|png/128/emoji_u[0-9a-f_]+\.png",
)
SVGMOJI = Source(
    "svgmoji/svgmoji",
    "fb4bf0c2e6188c0cf70642d2931e92b9b7b0ae65",
    r"LICENSE|packages/svgmoji__(twemoji|openmoji|blob)/svg/[0-9A-F-]+\.svg",
)


@dataclass(frozen=True)
class Style:
    """A drawing style: where its pictures are, its words in captions, and whom to credit."""

    source: Source
    path: str  # of a picture; {} stands for the code points as that source writes them
    words: str
    pictures: int  # how many the pinned commits give
    licence: str
    credit: str
    texts: Mapping[
        str, str
    ]  # licence file in the zip: file of the source, or of this repository after "own:"


STYLES = {
    "fluent": Style(
        source=FLUENT,
        path="assets/{}_3d.png",
        words="glossy 3d emoji",
        pictures=1545,
        licence="MIT",
        credit="Fluent Emoji by Microsoft Corporation",
        texts={"fluent-MIT.txt": "LICENSE"},
    ),
    "noto": Style(
        source=NOTO,
        path="png/128/emoji_u{}.png",
        words="cartoon emoji with soft shading",
        pictures=1644,
        licence="Apache-2.0",
        credit="Noto Emoji by Google LLC",
        texts={
            "Apache-2.0.txt": "own:LICENSE",
            "noto-OFL-1.1.txt": "LICENSE",
            "noto-svg-notice.txt": "svg/LICENSE",
        },
    ),
    "openmoji": Style(
        source=SVGMOJI,
        path="packages/svgmoji__openmoji/svg/{}.svg",
        words="outlined emoji with thick black lines",
        pictures=1805,
        licence="CC-BY-SA-4.0",
        credit=(
            "All emojis designed by OpenMoji - the open-source emoji and icon project "
            "(https://openmoji.org). "
            "License: CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)"
        ),
        texts={"svgmoji-MIT.txt": "LICENSE"},
    ),
    "twemoji": Style(
        source=SVGMOJI,
        path="packages/svgmoji__twemoji/svg/{}.svg",
        words="flat emoji",
        pictures=1812,
        licence="CC-BY-4.0",
        credit="Twemoji, copyright Twitter, Inc. and other contributors. License: CC BY 4.0 "
        "(https://creativecommons.org/licenses/by/4.0/)",
        texts={
            "CC-BY-4.0.txt": "own:src/safelight/models/stickers/LICENSES/CC-BY-4.0.txt",
            "svgmoji-MIT.txt": "LICENSE",
        },
    ),
    "blob": Style(
        source=SVGMOJI,
        path="packages/svgmoji__blob/svg/{}.svg",
        words="soft cartoon blob emoji",
        pictures=1707,
        licence="Apache-2.0",
        credit="Blobmoji by C1710 and contributors, after Noto Emoji by Google LLC",
        texts={"Apache-2.0.txt": "own:LICENSE", "svgmoji-MIT.txt": "LICENSE"},
    ),
}
SHIPPED = (
    "fluent",
    "noto",
    "twemoji",
    "blob",
)  # OpenMoji's share-alike would bind what is made from it
