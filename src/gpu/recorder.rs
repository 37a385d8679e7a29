//! Recording: dispatches and copies in order, handed to the queue in one go.

use super::timing::Stamps;
use super::{Gpu, Program, lock};
use crate::error::Error;
use crate::tensor::Tensor;

/// Parameter blocks of one submission share buffers of this size.
const PARAMS_CHUNK: u64 = 256 << 10;

enum Command {
    Dispatch { pipeline: wgpu::ComputePipeline, bindings: wgpu::BindGroup, groups: [u32; 3] },
    Copy { from: (wgpu::Buffer, u64), to: (wgpu::Buffer, u64), bytes: u64 },
    Texture { from: wgpu::Buffer, at: u64, bytes_per_row: u32, to: wgpu::Texture },
}

/// Everything recorded since the last submission.
pub(super) struct Recorder {
    commands: Vec<Command>,
    /// Host copies of the uniform chunks being filled, and their buffers. A chunk's buffer is written
    /// right before the submission that reads it, and reused only after that: the queue runs in order.
    chunks: Vec<(wgpu::Buffer, Vec<u8>)>,
    used: usize,
    align: u64,
    /// Written by the passes of every submission while somebody measures.
    pub(super) stamps: Option<Stamps>,
}

impl Recorder {
    pub(super) fn new(align: u32) -> Self {
        Self { commands: Vec::new(), chunks: Vec::new(), used: 0, align: u64::from(align.max(16)), stamps: None }
    }

    fn params(&mut self, device: &wgpu::Device, bytes: &[u8]) -> (wgpu::Buffer, u64) {
        let slot = (bytes.len() as u64).next_multiple_of(self.align);
        if self.used < self.chunks.len() && self.chunks[self.used].1.len() as u64 + slot > PARAMS_CHUNK {
            self.used += 1;
        }
        if self.used == self.chunks.len() {
            let buffer = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("residua/params"),
                size: PARAMS_CHUNK,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            self.chunks.push((buffer, Vec::new()));
        }
        let (buffer, host) = &mut self.chunks[self.used];
        let offset = host.len() as u64;
        host.extend_from_slice(bytes);
        host.resize((offset + slot) as usize, 0);
        (buffer.clone(), offset)
    }

    /// Copies bytes between buffers, from and to an offset.
    pub(super) fn copy(&mut self, from: (&wgpu::Buffer, u64), to: (&wgpu::Buffer, u64), bytes: u64) {
        self.commands.push(Command::Copy { from: (from.0.clone(), from.1), to: (to.0.clone(), to.1), bytes });
    }

    /// Fills a texture from rows of pixels that start at offset `at` of a buffer.
    pub(super) fn texture(&mut self, from: &wgpu::Buffer, at: u64, bytes_per_row: u32, to: &wgpu::Texture) {
        self.commands.push(Command::Texture { from: from.clone(), at, bytes_per_row, to: to.clone() });
    }

    pub(super) fn clear(&mut self) {
        self.commands.clear();
        self.used = 0;
        self.chunks.iter_mut().for_each(|c| c.1.clear());
    }

    pub(super) fn submit(&mut self, device: &wgpu::Device, queue: &wgpu::Queue) {
        if self.commands.is_empty() {
            return;
        }
        for (buffer, host) in self.chunks.iter().filter(|c| !c.1.is_empty()) {
            queue.write_buffer(buffer, 0, host);
        }
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("residua") });
        let mut commands = self.commands.drain(..).peekable();
        while let Some(command) = commands.next() {
            match command {
                Command::Copy { from, to, bytes } => {
                    encoder.copy_buffer_to_buffer(&from.0, from.1, &to.0, to.1, bytes);
                }
                Command::Texture { from, at, bytes_per_row, to } => {
                    let layout = wgpu::TexelCopyBufferLayout {
                        offset: at,
                        bytes_per_row: Some(bytes_per_row),
                        rows_per_image: None,
                    };
                    let source = wgpu::TexelCopyBufferInfo { buffer: &from, layout };
                    encoder.copy_buffer_to_texture(source, to.as_image_copy(), to.size());
                }
                first => {
                    // one pass for every run of dispatches: a pass of its own costs several times a dispatch
                    let timestamp_writes = self.stamps.as_mut().map(Stamps::of_next_pass);
                    let mut pass =
                        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
                    let mut next = Some(first);
                    while let Some(Command::Dispatch { pipeline, bindings, groups: [x, y, z] }) = next {
                        pass.set_pipeline(&pipeline);
                        pass.set_bind_group(0, &bindings, &[]);
                        pass.dispatch_workgroups(x, y, z);
                        next = commands.next_if(|c| matches!(c, Command::Dispatch { .. }));
                    }
                }
            }
        }
        drop(commands);
        queue.submit([encoder.finish()]);
        self.clear();
    }
}

impl Gpu {
    /// Records a copy of the numbers of `from` into `to`, from byte `at` of its own on; whole words.
    pub(crate) fn copy_into(&self, from: &Tensor, to: &Tensor, at: u64) {
        if !self.has_failed() && !self.0.rehearsal {
            let to = (to.buffer(), to.offset() + at);
            lock(&self.0.recorder).copy((from.buffer(), from.offset()), to, from.bytes().next_multiple_of(4));
        }
    }
}

/// One kernel launch being put together. Tensors are bound by the names the shader gives them.
pub struct Dispatch<'a> {
    gpu: Gpu,
    program: Program,
    bound: Vec<(&'static str, &'a Tensor)>,
    params: Vec<u8>,
    groups: [u32; 3],
    iterations: usize,
    flops: f64,
}

/// Software Vulkan ends an invocation after 65 535 loop iterations, all loops together, without an error.
const CPU_ITERATIONS: usize = 60_000;

impl<'a> Dispatch<'a> {
    /// Starts a launch of `program`.
    pub fn new(gpu: &Gpu, program: Program) -> Self {
        let (bound, params, groups) = (Vec::new(), Vec::new(), [1, 1, 1]);
        Self { gpu: gpu.clone(), program, bound, params, groups, iterations: 0, flops: 0.0 }
    }

    /// Binds a tensor to the shader's variable of this name.
    pub fn bind(mut self, name: &'static str, tensor: &'a Tensor) -> Self {
        self.bound.push((name, tensor));
        self
    }

    /// Binds a tensor if there is one (its provider is then linked as well).
    pub fn bind_if(self, name: &'static str, tensor: Option<&'a Tensor>) -> Self {
        match tensor {
            Some(t) => self.bind(name, t),
            None => self,
        }
    }

    /// The contents of `Params`.
    pub fn params<P: bytemuck::NoUninit>(mut self, params: &P) -> Self {
        self.params = bytemuck::bytes_of(params).to_vec();
        self
    }

    /// How many operations this takes, where the bytes of what is bound do not say how long it will.
    pub fn flops(mut self, flops: f64) -> Self {
        self.flops = flops;
        self
    }

    /// The number of workgroups. More than 65 535 in y folds into z, and in x (with y = z = 1) into y;
    /// kernels recover the flat index as `g.x + g.y * n.x` or `g.y + g.z * n.y`.
    pub fn over(mut self, [x, y, z]: [usize; 3]) -> Self {
        const MOST: usize = 65_535;
        let fold = |n: usize| {
            let outer = n.div_ceil(MOST);
            (n.div_ceil(outer.max(1)), outer.max(1))
        };
        let folded = if x > MOST && y == 1 && z == 1 {
            let (inner, outer) = fold(x);
            [inner, outer, 1]
        } else if y > MOST && z == 1 {
            let (inner, outer) = fold(y);
            [x, inner, outer]
        } else {
            [x, y, z]
        };
        assert!(folded.iter().all(|&n| n <= MOST), "grid {x} x {y} x {z} is too large for `{}`", self.program.name());
        self.groups = folded.map(|n| n as u32);
        self
    }

    /// Loop iterations of the busiest invocation, all loops together; the test that leaves a loop counts as one, which
    /// adds up for a short loop inside a long one. More than a software driver finishes is an
    /// [`Error::Limit`] there: it would give wrong numbers without a word.
    pub fn iterations(mut self, most: usize) -> Self {
        self.iterations = most;
        self
    }

    /// Puts the launch at the end of what is recorded.
    ///
    /// # Panics
    /// On a name the shader does not have, a missing one, or a tensor that is both read and written:
    /// bugs of the caller, not of the data.
    pub fn record(self) {
        if self.gpu.has_failed() || self.groups.contains(&0) {
            return;
        }
        // a tensor over the limit has a stand-in for a buffer, and may outlive the error it caused
        let most = self.gpu.largest_tensor();
        let stand_in = |t: &Tensor| t.offset() + t.bytes() > t.buffer().size() && !self.gpu.0.rehearsal;
        if let Some((_, t)) = self.bound.iter().find(|(_, t)| t.bytes() > most || stand_in(t)) {
            return self.gpu.fail(self.gpu.over_limit(t.bytes()));
        }
        if self.iterations > CPU_ITERATIONS && self.gpu.info().device_type == wgpu::DeviceType::Cpu {
            return self.gpu.fail(Error::Limit {
                what: format!("`{}` on a software driver", self.program.name()),
                need: format!("{} loop iterations", self.iterations),
                have: CPU_ITERATIONS.to_string(),
            });
        }
        let bytes = self.bound.iter().map(|(_, t)| t.bytes() as f64).sum();
        if self.gpu.0.rehearsal {
            return self.gpu.count(self.flops, bytes);
        }
        let kernel = match self.gpu.0.pipelines.get(&self.gpu.0.device, &self.program) {
            Ok(kernel) => kernel,
            Err(e) => return self.gpu.fail(e),
        };
        let name = self.program.name();
        let mut recorder = lock(&self.gpu.0.recorder);
        let params = (!self.params.is_empty()).then(|| recorder.params(&self.gpu.0.device, &self.params));
        let mut entries = Vec::with_capacity(kernel.bindings.len());
        for binding in &kernel.bindings {
            let resource = if binding.uniform {
                let (buffer, offset) = params.as_ref().unwrap_or_else(|| panic!("{name}: no params given"));
                let size = wgpu::BufferSize::new(self.params.len() as u64);
                wgpu::BufferBinding { buffer, offset: *offset, size }
            } else {
                let (_, tensor) = self
                    .bound
                    .iter()
                    .find(|(n, _)| *n == binding.name)
                    .unwrap_or_else(|| panic!("{name}: nothing bound to `{}`", binding.name));
                if binding.writes {
                    let shared = self.bound.iter().filter(|(_, t)| t.buffer() == tensor.buffer()).count();
                    assert!(shared == 1, "{name}: `{}` is written and also bound under another name", binding.name);
                }
                let size = wgpu::BufferSize::new(tensor.bytes().next_multiple_of(4));
                wgpu::BufferBinding { buffer: tensor.buffer(), offset: tensor.offset(), size }
            };
            let resource = wgpu::BindingResource::Buffer(resource);
            entries.push(wgpu::BindGroupEntry { binding: binding.number, resource });
        }
        for (bound, _) in &self.bound {
            assert!(kernel.bindings.iter().any(|b| b.name == *bound), "{name}: the shader has no `{bound}`");
        }
        let bindings = self.gpu.0.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(name),
            layout: &kernel.layout,
            entries: &entries,
        });
        log::trace!("{name} over {:?}", self.groups);
        recorder.commands.push(Command::Dispatch { pipeline: kernel.pipeline.clone(), bindings, groups: self.groups });
        drop(recorder);
        self.gpu.count(self.flops, bytes);
    }
}
