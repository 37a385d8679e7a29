//! From linked WGSL to a pipeline: reflected by naga, bound by name, compiled once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::lock;
use super::shader::{self, Linked, Source};
use crate::error::{Error, Result};

/// A kernel file with the files that provide what it calls, and the numbers it is built for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    main: Source,
    links: Vec<Source>,
    defines: Vec<(&'static str, u32)>,
}

impl Program {
    /// A program of one kernel file.
    pub fn of(main: Source) -> Self {
        Self { main, links: Vec::new(), defines: Vec::new() }
    }

    /// Adds a file that provides functions (and perhaps a binding).
    pub fn link(mut self, file: Source) -> Self {
        self.links.push(file);
        self
    }

    /// Adds `const NAME: u32 = value;`, which `//% for` ranges may use as well.
    pub fn define(mut self, name: &'static str, value: u32) -> Self {
        self.defines.push((name, value));
        self
    }

    /// The kernel file, such as `matmul/tiled.wgsl`.
    pub fn name(&self) -> &'static str {
        self.main.path
    }

    /// The complete WGSL text.
    ///
    /// # Errors
    /// [`Error::Shader`] naming file and line.
    pub fn source(&self) -> Result<String> {
        Ok(self.linked()?.text)
    }

    fn linked(&self) -> Result<Linked> {
        shader::link(self.main, &self.links, &self.defines)
    }

    /// Parses and validates without a device, as the test over all programs does.
    ///
    /// # Errors
    /// [`Error::Shader`] naming file and line.
    pub fn validate(&self) -> Result<()> {
        let linked = self.linked()?;
        let module = parse(&linked)?;
        use naga::valid::Capabilities as C;
        let mut capabilities = C::SUBGROUP | C::SHADER_FLOAT16_IN_FLOAT32;
        // device features that a file enables in so many words
        capabilities.set(C::SHADER_FLOAT16, linked.text.contains("enable f16;"));
        capabilities.set(C::COOPERATIVE_MATRIX, linked.text.contains("enable wgpu_cooperative_matrix;"));
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities)
            .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
            .subgroup_operations(naga::valid::SubgroupOperationSet::all())
            .validate(&module)
            .map_err(|e| {
                let line = e.spans().next().map_or(0, |(span, _)| span.location(&linked.text).line_number);
                linked.error(line, chain(e.as_inner()))
            })?;
        reflect(&module, &linked).map(|_| ())
    }
}

/// An error with what lies behind it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn parse(linked: &Linked) -> Result<naga::Module> {
    naga::front::wgsl::parse_str(&linked.text).map_err(|e| {
        let line = e.location(&linked.text).map_or(0, |l| l.line_number);
        linked.error(line, e.message().to_string())
    })
}

/// One variable of a shader.
pub(super) struct Binding {
    pub name: String,
    pub number: u32,
    pub uniform: bool,
    pub writes: bool,
}

fn reflect(module: &naga::Module, linked: &Linked) -> Result<Vec<Binding>> {
    let mut found = Vec::new();
    for (_, variable) in module.global_variables.iter() {
        let Some(at) = &variable.binding else { continue };
        let name = variable.name.clone().unwrap_or_default();
        let (uniform, writes) = match variable.space {
            naga::AddressSpace::Uniform => (true, false),
            naga::AddressSpace::Storage { access } => (false, access.contains(naga::StorageAccess::STORE)),
            other => return Err(linked.error(0, format!("`{name}` lives in {other:?}"))),
        };
        if at.group != 0 || found.iter().any(|b: &Binding| b.number == at.binding) {
            return Err(linked.error(0, format!("`{name}` has a binding that is taken, or a group other than 0")));
        }
        found.push(Binding { name, number: at.binding, uniform, writes });
    }
    Ok(found)
}

pub(super) struct Kernel {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    pub bindings: Vec<Binding>,
}

#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<Program, Arc<Kernel>>>);

impl Cache {
    pub(super) fn get(&self, device: &wgpu::Device, program: &Program) -> Result<Arc<Kernel>> {
        if let Some(kernel) = lock(&self.0).get(program) {
            return Ok(kernel.clone());
        }
        let kernel = Arc::new(compile(device, program)?);
        lock(&self.0).insert(program.clone(), kernel.clone());
        Ok(kernel)
    }
}

fn compile(device: &wgpu::Device, program: &Program) -> Result<Kernel> {
    let linked = program.linked()?;
    let bindings = reflect(&parse(&linked)?, &linked)?;
    let name = program.name();
    let entries: Vec<wgpu::BindGroupLayoutEntry> = bindings
        .iter()
        .map(|b| wgpu::BindGroupLayoutEntry {
            binding: b.number,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: match b.uniform {
                    true => wgpu::BufferBindingType::Uniform,
                    false => wgpu::BufferBindingType::Storage { read_only: !b.writes },
                },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    let layout =
        device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(name), entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(name),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: Some(name), source: wgpu::ShaderSource::Wgsl(linked.text.into()) };
    // Bounds stay checked: an index past a binding reads zero instead of another tensor. Loops are not
    // given an iteration counter: every loop in our shaders runs to a bound that no iteration changes.
    let checks = wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..wgpu::ShaderRuntimeChecks::checked() };
    // SAFETY: loops end (see above); everything else keeps its runtime check.
    let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(name),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &[],
            // kernels write workgroup memory before they read it
            zero_initialize_workgroup_memory: false,
        },
        cache: None,
    });
    Ok(Kernel { pipeline, layout, bindings })
}

impl Linked {
    fn error(&self, line: u32, problem: String) -> Error {
        let (file, line) = self.origin(line);
        Error::Shader { file: file.into(), line, problem }
    }
}
