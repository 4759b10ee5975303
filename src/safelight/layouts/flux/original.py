"""FLUX.1 and FLUX.2 as they were published (black-forest-labs/flux and /flux2): bare names."""

from safelight.layouts.flux.mapping import KeyNames, layout


def stream(short: str) -> dict[str, list[str]]:
    """The layers of one of the two sequences of a double block."""
    ours, theirs = (
        f"double_blocks.{'image' if short == 'img' else 'text'}",
        f"double_blocks.{{i}}.{short}",
    )
    return {
        f"{ours}.modulation.linear": [f"{theirs}_mod.lin"],
        f"{ours}.qkv": [f"{theirs}_attn.qkv"],
        f"{ours}.q_norm": [f"{theirs}_attn.norm.query_norm"],
        f"{ours}.k_norm": [f"{theirs}_attn.norm.key_norm"],
        f"{ours}.out": [f"{theirs}_attn.proj"],
        f"{ours}.enter": [f"{theirs}_mlp.0"],
        f"{ours}.leave": [f"{theirs}_mlp.2"],
    }


LAYERS = {
    "patches": ["img_in"],
    "text": ["txt_in"],
    "time.0": ["time_in.in_layer"],
    "time.2": ["time_in.out_layer"],
    "guidance.0": ["guidance_in.in_layer"],
    "guidance.2": ["guidance_in.out_layer"],
    "vector.0": ["vector_in.in_layer"],
    "vector.2": ["vector_in.out_layer"],
    "shared_image.linear": ["double_stream_modulation_img.lin"],
    "shared_text.linear": ["double_stream_modulation_txt.lin"],
    "shared_single.linear": ["single_stream_modulation.lin"],
    **stream("img"),
    **stream("txt"),
    "single_blocks.modulation.linear": ["single_blocks.{i}.modulation.lin"],
    "single_blocks.enter": ["single_blocks.{i}.linear1"],
    "single_blocks.q_norm": ["single_blocks.{i}.norm.query_norm"],
    "single_blocks.k_norm": ["single_blocks.{i}.norm.key_norm"],
    "single_blocks.leave": ["single_blocks.{i}.linear2"],
    "final.modulation.linear": ["final_layer.adaLN_modulation.1"],
    "final.linear": ["final_layer.linear"],
}

LAYOUTS = (
    layout(KeyNames("original", 1, LAYERS, "scale"), KeyNames("original", 2, LAYERS, "scale")),
)
