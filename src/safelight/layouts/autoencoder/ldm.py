"""First stages as latent diffusion wrote them (CompVis/latent-diffusion; also Stable Diffusion, SD
3, FLUX): the names of ``first_stage_model.``, or a file of their own."""

from safelight.layouts.autoencoder.mapping import KeyNames, make_layouts

LAYOUTS = make_layouts(
    KeyNames(
        name="ldm",
        down="down.{i}",
        up="up.{i}",
        reverse=False,
        block="block.{j}",
        attention="attn.{j}",
        norm="norm",
        qkv=("q", "k", "v"),
        out="proj_out",
        skip="nin_shortcut",
        smaller="downsample.conv",
        larger="upsample.conv",
        first="mid.block_1",
        second="mid.block_2",
        between="mid.attn_1",
        last_norm="norm_out",
        packed_quant=("encoder.quant_conv", "decoder.post_quant_conv"),
    )
)
