"""The tokenizer of a model folder, and the ids that end a reply.

Knows nothing of messages. Llama 4's tokenizer is always tokenizer.json.
"""

from pathlib import Path
from typing import Any

from .config import read_json
from .errors import BadCheckpoint, NotFound

STOP_TOKENS = ("<|end_of_text|>", "<|eom|>", "<|eot|>")


def load_tokenizer(folder: Path) -> Any:
    """mlx-lm's wrapper of the folder's fast tokenizer.

    Not AutoTokenizer: it would offer to run code of the folder, and it refuses folders whose
    config.json an older transformers wrote. Raises NotFound or BadCheckpoint.
    """
    if not (folder / "tokenizer.json").is_file():
        raise NotFound(f"{folder} has no tokenizer.json; copy it from the original model")
    from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, TokenizerWrapper
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        return TokenizerWrapper(tokenizer, BPEStreamingDetokenizer)
    except Exception as e:  # noqa: BLE001 - tokenizers raises bare Exceptions for bad files
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise BadCheckpoint(
            f"{folder}: the tokenizer cannot be loaded ({reason}); "
            "copy tokenizer.json and tokenizer_config.json from the original model"
        ) from None


def stop_ids(folder: Path, tokenizer: Any) -> frozenset[int]:
    """All ids that end a turn: generation_config's, the tokenizer's own, and end_of_text,
    eom and eot by name, since older copies list only some of them."""
    ids = {tokenizer.eos_token_id, *(tokenizer.convert_tokens_to_ids(t) for t in STOP_TOKENS)}
    ids.discard(tokenizer.unk_token_id)
    if (folder / "generation_config.json").is_file():
        listed = read_json(folder / "generation_config.json").get("eos_token_id", [])
        ids |= set(listed) if isinstance(listed, list) else {listed}
    return frozenset(id for id in ids if isinstance(id, int))


def token_bytes(tokenizer: Any) -> list[bytes]:
    """What each id stands for. Tokens are written in an alphabet of one character per byte
    (GPT-2's): printable Latin-1 as itself, the other bytes in order from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    alphabet = {chr(byte): byte for byte in printable}
    alphabet |= {chr(0x100 + n): byte for n, byte in enumerate(others)}
    added = tokenizer.added_tokens_decoder
    written: list[str | None] = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return [
        added[id].content.encode() if id in added
        else bytes(alphabet[character] for character in token or "")
        for id, token in enumerate(written)
    ]  # fmt: skip
