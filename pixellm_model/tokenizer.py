"""Tokenizes text exactly as in the training of the published weights.

The reference used transformers 4.31's slow LLaMA tokenizer, whose handling of white space around added
tokens changed in later versions. Here text is split at the special tokens first and each piece is encoded
separately, so the ids do not depend on a library's version.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
import tokenizers

from pixellm_model.codebook import Codebook
from pixellm_model.errors import CheckpointError
from pixellm_model.model import IMAGE_ID

IMAGE, IM_START, IM_END = "<image>", "<im_start>", "<im_end>"
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


class _Pieces(Protocol):
    """Encodes text without special tokens."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...


class _SentencePiece:
    def __init__(self, path: Path):
        self._model = sentencepiece.SentencePieceProcessor()
        self._model.Load(str(path))

    def encode(self, text: str) -> list[int]:
        return self._model.EncodeAsIds(text)

    def decode(self, ids: list[int]) -> str:
        return self._model.DecodeIds(ids)


class _BytePairs:
    """A byte-level BPE. Like the LLaMA pieces, each text starts as a new word."""

    def __init__(self, path: Path):
        self._model = tokenizers.Tokenizer.from_file(str(path))

    def encode(self, text: str) -> list[int]:
        return self._model.encode(" " + text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self._model.decode(ids, skip_special_tokens=False).strip()


class PromptTokenizer:
    """A checkpoint's tokenizer, with PixelLM's special tokens.

    Attributes:
        folder: Where it was read from.
        codebook: The segmentation codebook.
        bos_id: Id of the token that begins a sequence.
        eos_text: The end token.
        eos_id: Its id.
        size: The greatest id of a special token, plus 1.

    Raises:
        CheckpointError: The folder has no tokenizer, or one without the special tokens.
    """

    def __init__(self, folder: Path, codebook_size: int, tokens_per_scale: int):
        self.folder = folder
        config = _read_json(folder / "tokenizer_config.json")
        self._pieces: _Pieces
        if (folder / "tokenizer.model").exists():
            self._pieces = _SentencePiece(folder / "tokenizer.model")
            special = {"<unk>": 0, "<s>": 1, "</s>": 2} | _read_json(folder / "added_tokens.json")
        elif (folder / "tokenizer.json").exists():
            self._pieces = _BytePairs(folder / "tokenizer.json")
            added = _read_json(folder / "tokenizer.json").get("added_tokens", [])
            special = {token["content"]: token["id"] for token in added}
        else:
            raise CheckpointError(f"{folder} holds neither tokenizer.model nor tokenizer.json.")
        names = [f"[SEG{k}]" for k in range(codebook_size)]
        missing = [name for name in (*names, IM_START, IM_END) if name not in special]
        if missing:
            raise CheckpointError(
                f"The tokenizer in {folder} lacks {', '.join(missing)}; "
                "a PixelLM checkpoint adds them in added_tokens.json."
            )
        self.codebook = Codebook(tuple(int(special[name]) for name in names), tokens_per_scale)
        self.bos_id = int(special[_content(config.get("bos_token"), "<s>")])
        self.eos_text = _content(config.get("eos_token"), "</s>")
        self.eos_id = int(special[self.eos_text])
        self.size = max(special.values()) + 1
        self._special = special
        self._names = {id_: name for name, id_ in special.items()}
        self._pattern = re.compile(
            "|".join(re.escape(name) for name in sorted(special, key=len, reverse=True))
        )
        # 4.31 also stripped white space around these if stored as strings, but not as AddedTokens.
        self._unstripped = {
            _content(config.get(key), default)
            for key, default in (("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"))
            if not isinstance(config.get(key), str)
        }

    def encode(self, text: str) -> list[int]:
        """The ids of a text, BOS first; `<image>` becomes IMAGE_ID."""
        chunks = [self._encode_chunk(chunk) for chunk in text.split(IMAGE)]
        ids = [self.bos_id, *chunks[0]]
        for chunk in chunks[1:]:
            ids += [IMAGE_ID, *chunk]
        return ids

    def _encode_chunk(self, text: str) -> list[int]:
        ids: list[int] = []
        strip_left, at = False, 0
        for match in [*self._pattern.finditer(text), None]:
            piece = text[at : match.start()] if match else text[at:]
            strips = match is not None and match.group() not in self._unstripped
            if strip_left:
                piece = piece.lstrip()
            if strips:
                piece = piece.rstrip()
            if piece:
                ids += self._pieces.encode(piece)
            if match:
                ids.append(int(self._special[match.group()]))
                at, strip_left = match.end(), strips
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of ids; special tokens are left out."""
        return self._pieces.decode([i for i in ids if i not in self._names])

    def clean(self, text: str) -> str:
        """Replace special tokens in a user's text, and all runs of white space, by single spaces."""
        return " ".join(self._pattern.sub(" ", text.replace(IMAGE, " ")).split())

    def save(self, folder: Path) -> None:
        """Copy the tokenizer's files to `folder`."""
        for name in TOKENIZER_FILES:
            if (self.folder / name).exists() and (self.folder / name).resolve() != (folder / name).resolve():
                shutil.copyfile(self.folder / name, folder / name)


def _content(token: Any, default: str) -> str:
    if isinstance(token, dict):
        return str(token["content"])
    return token if isinstance(token, str) else default


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return value
