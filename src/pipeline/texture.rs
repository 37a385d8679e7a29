//! Frames as textures of the device they were made on: nothing passes through the host.

use crate::ops;
use crate::tensor::Tensor;

/// Pixels a texture copy needs rows to be a multiple of (256 bytes of RGBA).
const ROW: usize = 64;

/// Frames `[3, T, H, W]` in [−1, 1] as one `Rgba8Unorm` texture each (alpha 1), values as in image files: a host that
/// draws to an sRGB target samples them through an `Rgba8UnormSrgb` view. The copies are recorded; submit before use.
///
/// # Panics
/// If the tensor has not three channels.
pub fn frame_textures(pixels: &Tensor) -> Vec<wgpu::Texture> {
    let [_, frames, height, width] = pixels.sizes();
    let gpu = pixels.gpu();
    let stride = width.next_multiple_of(ROW);
    let packed = ops::pack_rgba(pixels, stride);
    (0..frames)
        .map(|frame| {
            let texture = gpu.device().create_texture(&wgpu::TextureDescriptor {
                label: Some("residua/frame"),
                size: wgpu::Extent3d { width: width as u32, height: height as u32, depth_or_array_layers: 1 },
                mip_level_count: 1,
                sample_count: 1,
                dimension: wgpu::TextureDimension::D2,
                format: wgpu::TextureFormat::Rgba8Unorm,
                usage: wgpu::TextureUsages::TEXTURE_BINDING
                    | wgpu::TextureUsages::COPY_DST
                    | wgpu::TextureUsages::COPY_SRC,
                view_formats: &[wgpu::TextureFormat::Rgba8UnormSrgb],
            });
            let at = (frame * height * stride * 4) as u64;
            gpu.fill_texture(packed.buffer(), at, (stride * 4) as u32, &texture);
            texture
        })
        .collect()
}
