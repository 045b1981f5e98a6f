"""The demo's model folder without its weights: shape, tokenizer, chat template.

Knows nothing of training. Names and layout are those of the published Llama 4 Maverick; all
contents are made here.
"""

import json
from pathlib import Path
from typing import Any

from ..hub import DEMO_FOLDER
from .world import conversation

# In the order of the published vocabulary.
SPECIAL = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|header_start|>", "<|header_end|>", "<|eom|>",
    "<|eot|>", "<|step|>", "<|python_start|>", "<|python_end|>", "<|finetune_right_pad|>",
    "<|image_start|>", "<|image_end|>", "<|tile_x_separator|>", "<|tile_y_separator|>",
    "<|image|>", "<|patch|>",
)  # fmt: skip
VOCABULARY = 640
TEMPLATE = "chat_template.jinja"  # written by hand: the shipped one is its source
READ = 6000  # conversations that the tokenizer is made from
# A word with the space before it, single digits, marks, line ends, other space.
PATTERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+"
TILE = 56  # pixels


def token_id(token: str) -> int:
    """Of one of SPECIAL, which are the last."""
    return VOCABULARY - len(SPECIAL) + SPECIAL.index(token)


def config() -> dict[str, Any]:
    """config.json: Maverick's architecture, 3.2 million weights."""
    stops = [token_id(token) for token in ("<|end_of_text|>", "<|eom|>", "<|eot|>")]
    return {
        "architectures": ["Llama4ForConditionalGeneration"],
        "boi_token_index": token_id("<|image_start|>"),
        "eoi_token_index": token_id("<|image_end|>"),
        "image_token_index": token_id("<|patch|>"),
        "model_type": "llama4",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "text_config": {
            "attention_bias": False,
            "attention_chunk_size": 128,
            "attention_dropout": 0.0,
            "attn_scale": 0.1,
            "attn_temperature_tuning": True,
            "bos_token_id": token_id("<|begin_of_text|>"),
            "eos_token_id": stops,
            "floor_scale": 128,
            "head_dim": 32,
            "hidden_act": "silu",
            "hidden_size": 128,
            "initializer_range": 0.02,
            "interleave_moe_layer_step": 2,
            "intermediate_size": 128,
            "intermediate_size_mlp": 256,
            "max_position_embeddings": 8192,
            "model_type": "llama4_text",
            "num_attention_heads": 4,
            "num_experts_per_tok": 1,
            "num_hidden_layers": 8,
            "num_key_value_heads": 2,
            "num_local_experts": 8,
            "output_router_logits": False,
            "pad_token_id": token_id("<|finetune_right_pad|>"),
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 500000.0,
            "router_aux_loss_coef": 0.01,
            "router_jitter_noise": 0.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "use_qk_norm": False,
            "vocab_size": VOCABULARY,
        },
        "vision_config": {
            "attention_dropout": 0.0,
            "hidden_act": "gelu",
            "hidden_size": 96,
            "image_size": TILE,
            "initializer_range": 0.02,
            "intermediate_size": 384,
            "model_type": "llama4_vision_model",
            "multi_modal_projector_bias": False,
            "norm_eps": 1e-05,
            "num_attention_heads": 6,
            "num_channels": 3,
            "num_hidden_layers": 3,
            "patch_size": 14,
            "pixel_shuffle_ratio": 0.5,
            "projector_dropout": 0.0,
            "projector_input_dim": 128,
            "projector_output_dim": 128,
            "rope_theta": 10000,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "default",
            "vision_output_dim": 128,
        },
    }


def write(folder: Path) -> None:
    """Everything but the weights into `folder`, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    made = config()
    _write_json(folder / "config.json", made)
    text = made["text_config"]
    _write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": text["bos_token_id"], "eos_token_id": text["eos_token_id"],
            "pad_token_id": text["pad_token_id"], "do_sample": True, "temperature": 0.6,
            "top_p": 0.9,
        },
    )  # fmt: skip
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "Llama4ImageProcessorFast", "do_convert_rgb": True,
            "do_normalize": True, "do_rescale": True, "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "max_patches": 16,
            "processor_class": "Llama4Processor", "resample": 2, "rescale_factor": 1 / 255,
            "resize_to_max_canvas": False, "size": {"height": TILE, "width": TILE},
        },
    )  # fmt: skip
    _write_json(
        folder / "processor_config.json",
        {
            "processor_class": "Llama4Processor", "patch_size": 14, "pixel_shuffle_ratio": 0.5,
            "fake_image_token": "<|image|>", "image_token": "<|image|>",
        },
    )  # fmt: skip
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot|>", "pad_token": "<|finetune_right_pad|>",
            "clean_up_tokenization_spaces": False, "processor_class": "Llama4Processor",
            "model_max_length": text["max_position_embeddings"],
        },
    )  # fmt: skip
    template = (DEMO_FOLDER / TEMPLATE).read_text()
    (folder / TEMPLATE).write_text(template)
    _write_tokenizer(folder / "tokenizer.json")


def _write_tokenizer(path: Path) -> None:
    """A byte-level BPE of the world's own words: any text can be encoded."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, processors, trainers
    from tokenizers import pre_tokenizers as pre

    tokenizer = Tokenizer(models.BPE())
    split = pre.Split(Regex(PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre.Sequence(
        [split, pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL), show_progress=False,
        initial_alphabet=pre.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    bos = "<|begin_of_text|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, token_id(bos))]
    )
    if tokenizer.get_vocab_size() != VOCABULARY or tokenizer.token_to_id(bos) != token_id(bos):
        raise RuntimeError(f"the tokenizer has {tokenizer.get_vocab_size()} tokens")
    tokenizer.save(str(path))


def _texts() -> list[str]:
    texts = ["\n\n", "system", "user", "assistant", "ipython"] * READ
    for number in range(READ):
        talk = conversation("train", number)
        texts += [talk.system] if talk.system else []
        texts += [text for turn in talk.turns for text in (turn.question, turn.answer)]
    return texts


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
