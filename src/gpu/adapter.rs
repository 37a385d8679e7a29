//! Which adapter to use, and what it can do.

use std::path::PathBuf;

use super::{DType, Tune};
use crate::error::{Error, Result};

/// Which adapter to open.
#[derive(Clone, Debug, Default)]
pub struct Prefs {
    /// `None`: the best one (discrete before integrated before software). Otherwise an index of
    /// [`list`], a part of a name (any case), `software`, or `backend:part` such as `vulkan:0`.
    pub device: Option<String>,
    /// `None`: decided from the adapter. Otherwise the kernel family to force, for tests.
    pub class: Option<Class>,
    /// How weights and what feeds products are kept; `None`: halves.
    pub dtype: Option<DType>,
    /// Whether kernels are measured against each other; what is found out is kept on disk.
    pub tune: Tune,
    /// Where; `None`: [`super::cache_folder`].
    pub cache_folder: Option<PathBuf>,
}

/// The kernel family an adapter gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// No optional feature: right on every adapter.
    Portable,
    /// Subgroups of exactly 8 on a CPU (Mesa's software Vulkan): rows are spread over the lanes and
    /// handed round by shuffle, because every load costs the same there whatever its address.
    Simd8,
}

impl Class {
    /// Every family.
    pub const ALL: [Class; 2] = [Class::Portable, Class::Simd8];
}

impl std::str::FromStr for Class {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "portable" => Ok(Class::Portable),
            "simd8" => Ok(Class::Simd8),
            _ => Err(format!("unknown kernel family `{s}`; known: portable, simd8")),
        }
    }
}

/// One adapter as `residua devices` shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Position in the list, usable as [`Prefs::device`].
    pub index: usize,
    /// Name, driver, kind, backend.
    pub info: wgpu::AdapterInfo,
    /// What the adapter allows.
    pub limits: wgpu::Limits,
    /// The optional features it offers.
    pub features: wgpu::Features,
    /// The kernel family it would get.
    pub class: Class,
    /// Whether it is the one opened when nothing is asked for.
    pub default: bool,
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY;
    wgpu::Instance::new(descriptor)
}

/// Lower is better; ties keep the driver's order.
fn rank(info: &wgpu::AdapterInfo) -> u8 {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

/// The family for an adapter (see [`Class`]).
pub(super) fn class_of(info: &wgpu::AdapterInfo, features: wgpu::Features) -> Class {
    let eight = info.subgroup_min_size == 8 && info.subgroup_max_size == 8;
    if info.device_type == wgpu::DeviceType::Cpu && eight && features.contains(wgpu::Features::SUBGROUP) {
        Class::Simd8
    } else {
        Class::Portable
    }
}

async fn adapters() -> Vec<wgpu::Adapter> {
    instance().enumerate_adapters(wgpu::Backends::PRIMARY).await
}

fn best(adapters: &[wgpu::Adapter]) -> Option<usize> {
    (0..adapters.len()).min_by_key(|&i| rank(&adapters[i].get_info()))
}

/// All adapters that answer, in the driver's order. Empty without any driver.
pub async fn list() -> Vec<Listed> {
    let all = adapters().await;
    let default = best(&all);
    all.iter()
        .enumerate()
        .map(|(index, a)| {
            let (info, features) = (a.get_info(), a.features());
            let class = class_of(&info, features);
            Listed { index, info, limits: a.limits(), features, class, default: Some(index) == default }
        })
        .collect()
}

/// The adapter that `prefs` asks for.
///
/// # Errors
/// [`Error::NoAdapter`] with what to install on this system, or the names there are to choose from.
pub(super) async fn choose(prefs: &Prefs) -> Result<wgpu::Adapter> {
    let mut all = adapters().await;
    if all.is_empty() {
        return Err(Error::NoAdapter(advice().into()));
    }
    let wanted = match prefs.device.as_deref().map(str::trim).filter(|d| !d.is_empty()) {
        None => best(&all),
        Some(want) => find(&all, want),
    };
    match wanted {
        Some(i) => Ok(all.swap_remove(i)),
        None => {
            let names: Vec<String> =
                all.iter().enumerate().map(|(i, a)| format!("{i}: {}", a.get_info().name)).collect();
            Err(Error::NoAdapter(format!(
                "nothing matches `{}`; there is {}",
                prefs.device.as_deref().unwrap_or_default(),
                names.join(", ")
            )))
        }
    }
}

fn find(all: &[wgpu::Adapter], want: &str) -> Option<usize> {
    let want = want.to_lowercase();
    let (backend, part) = match want.split_once(':') {
        Some((b, p)) => (Some(b.to_string()), p.to_string()),
        None => (None, want),
    };
    let on_backend = |a: &wgpu::Adapter| {
        backend.as_ref().is_none_or(|b| a.get_info().backend.to_string().to_lowercase().contains(b.as_str()))
    };
    let candidates: Vec<usize> = (0..all.len()).filter(|&i| on_backend(&all[i])).collect();
    if let Ok(index) = part.parse::<usize>() {
        return if backend.is_some() { candidates.get(index).copied() } else { (index < all.len()).then_some(index) };
    }
    candidates.into_iter().find(|&i| {
        let info = all[i].get_info();
        (part == "software" && info.device_type == wgpu::DeviceType::Cpu) || info.name.to_lowercase().contains(&part)
    })
}

/// What to install when no driver answers, for the system this runs on.
pub fn advice() -> &'static str {
    if cfg!(target_os = "windows") {
        "no Direct3D 12 or Vulkan driver answered; install your graphics card's current driver"
    } else if cfg!(target_os = "macos") {
        "no Metal device answered; macOS 10.15 or newer on a machine with Metal is needed"
    } else {
        "no Vulkan driver answered; install your graphics card's Vulkan driver, or Mesa's software driver \
         (Debian, Ubuntu: `apt install mesa-vulkan-drivers`; Fedora: `dnf install mesa-vulkan-drivers`; \
         Arch: `pacman -S vulkan-swrast`)"
    }
}
