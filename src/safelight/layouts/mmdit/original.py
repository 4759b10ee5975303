"""The transformers of Stable Diffusion 3 and 3.5 as Stability AI wrote them (Stability-AI/sd3.5):
the names of ``model.diffusion_model.``, or a file of their own."""

from safelight.layouts.mmdit.mapping import KeyNames, layout

KEY_NAMES = KeyNames(
    name="mmdit",
    table="pos_embed",
    whole={
        "patches": ("x_embedder.proj",),
        "time.first": ("t_embedder.mlp.0",),
        "time.second": ("t_embedder.mlp.2",),
        "vector.0": ("y_embedder.mlp.0",),
        "vector.2": ("y_embedder.mlp.2",),
        "text": ("context_embedder",),
        "final.linear": ("final_layer.linear",),
        "final.modulation.linear": ("final_layer.adaLN_modulation.1",),
    },
    block="joint_blocks.{i}",
    layers={
        "patches.modulation.linear": ("x_block.adaLN_modulation.1",),
        "patches.attention.qkv": ("x_block.attn.qkv",),
        "patches.attention.q_norm": ("x_block.attn.ln_q",),
        "patches.attention.k_norm": ("x_block.attn.ln_k",),
        "patches.attention.out": ("x_block.attn.proj",),
        "patches.mlp.0": ("x_block.mlp.fc1",),
        "patches.mlp.2": ("x_block.mlp.fc2",),
        "text.modulation.linear": ("context_block.adaLN_modulation.1",),
        "text.attention.qkv": ("context_block.attn.qkv",),
        "text.attention.q_norm": ("context_block.attn.ln_q",),
        "text.attention.k_norm": ("context_block.attn.ln_k",),
        "text.attention.out": ("context_block.attn.proj",),
        "text.mlp.0": ("context_block.mlp.fc1",),
        "text.mlp.2": ("context_block.mlp.fc2",),
        "dual.qkv": ("x_block.attn2.qkv",),
        "dual.q_norm": ("x_block.attn2.ln_q",),
        "dual.k_norm": ("x_block.attn2.ln_k",),
        "dual.out": ("x_block.attn2.proj",),
    },
    swapped=False,
)
LAYOUTS = (layout(KEY_NAMES),)
