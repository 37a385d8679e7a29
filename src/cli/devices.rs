//! `residua devices`: the adapters there are, on standard output.

use residua::Error;
use residua::gpu::{self, Listed};
use serde_json::{Value, json};

use super::args::Devices;
use super::exit::Outcome;
use super::screen::{Screen, size};

/// Runs the verb.
///
/// # Errors
/// If there is no adapter at all, with what to install.
pub fn run(args: &Devices, screen: &Screen) -> Outcome {
    let found = pollster::block_on(gpu::list());
    if found.is_empty() {
        return Err(Error::NoAdapter(gpu::advice().into()).into());
    }
    if screen.json {
        let all: Vec<Value> = found.iter().map(value).collect();
        screen.data(json!({"v": 1, "devices": all}));
        return Ok(());
    }
    for device in &found {
        screen.data(lines(device, args.talk.verbose > 0).join("\n"));
    }
    screen.say("* is used by default; choose another with --device NUMBER, or part of its name");
    Ok(())
}

fn kind(device: &Listed) -> &'static str {
    match device.info.device_type {
        residua::wgpu::DeviceType::DiscreteGpu => "discrete",
        residua::wgpu::DeviceType::IntegratedGpu => "integrated",
        residua::wgpu::DeviceType::VirtualGpu => "virtual",
        residua::wgpu::DeviceType::Cpu => "software",
        residua::wgpu::DeviceType::Other => "other",
    }
}

/// Those that matter to kernels of this kind, used already or not.
fn features(device: &Listed) -> Vec<&'static str> {
    use residua::wgpu::Features as F;
    let known = [
        (F::SUBGROUP, "subgroups"),
        (F::SHADER_F16, "f16"),
        (F::TIMESTAMP_QUERY, "timestamps"),
        (F::EXPERIMENTAL_COOPERATIVE_MATRIX, "cooperative matrices"),
    ];
    known.into_iter().filter(|(f, _)| device.features.contains(*f)).map(|(_, name)| name).collect()
}

fn driver(device: &Listed) -> String {
    format!("{} {}", device.info.driver, device.info.driver_info).trim().to_string()
}

fn lines(device: &Listed, all: bool) -> Vec<String> {
    let (info, limits) = (&device.info, &device.limits);
    let mark = if device.default { '*' } else { ' ' };
    let subgroups = match (info.subgroup_min_size, info.subgroup_max_size) {
        (a, b) if a == b => format!("of {a}"),
        (a, b) => format!("of {a} to {b}"),
    };
    let named: Vec<String> = features(device)
        .into_iter()
        .map(|f| if f == "subgroups" { format!("{f} {subgroups}") } else { f.into() })
        .collect();
    let mut lines = vec![
        format!("{mark} {}: {} ({}, {})", device.index, info.name, info.backend, kind(device)),
        format!("    driver     {}", driver(device)),
        format!("    kernels    {}", format!("{:?}", device.class).to_lowercase()),
        format!(
            "    limits     buffer {}, binding {}, workgroup {} and {} invocations",
            size(limits.max_buffer_size),
            size(limits.max_storage_buffer_binding_size),
            size(limits.max_compute_workgroup_storage_size.into()),
            limits.max_compute_invocations_per_workgroup
        ),
        format!("    features   {}", if named.is_empty() { "none".into() } else { named.join(", ") }),
    ];
    if let Some((file, choices)) = gpu::tuned(info, None).filter(|_| all) {
        lines.push(format!("    measured   {choices} choices of kernels in {}", file.display()));
    }
    if all {
        lines.push(format!(
            "    all        {}",
            device.features.iter_names().map(|(n, _)| n).collect::<Vec<_>>().join(", ")
        ));
    }
    lines
}

fn value(device: &Listed) -> Value {
    let (info, limits) = (&device.info, &device.limits);
    json!({
        "index": device.index,
        "default": device.default,
        "name": info.name,
        "backend": info.backend.to_string(),
        "kind": kind(device),
        "driver": driver(device),
        "kernels": format!("{:?}", device.class).to_lowercase(),
        "limits": {
            "max_buffer_size": limits.max_buffer_size,
            "max_storage_buffer_binding_size": limits.max_storage_buffer_binding_size,
            "max_compute_workgroup_storage_size": limits.max_compute_workgroup_storage_size,
            "max_compute_invocations_per_workgroup": limits.max_compute_invocations_per_workgroup,
            "subgroup_min_size": info.subgroup_min_size,
            "subgroup_max_size": info.subgroup_max_size,
        },
        "features": device.features.iter_names().map(|(name, _)| name).collect::<Vec<_>>(),
    })
}
