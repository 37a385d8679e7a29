//! Which adapter to use, and what it can do.

use std::path::PathBuf;

use super::{DType, Gpu, Tune};
use crate::error::{Error, Result};

/// Which adapter to open.
#[derive(Clone, Debug, Default)]
pub struct Prefs {
    /// `None`: the best one (discrete before integrated before software). Otherwise an index of
    /// [`list`], a part of a name (any case), `software`, or `backend:part` such as `vulkan:0`.
    pub device: Option<String>,
    /// `None`: decided from the adapter. Otherwise the kernel family to force, for tests. A matrix family that the
    /// adapter has with tiles of another size is taken with those.
    pub class: Option<Class>,
    /// How weights and what feeds products are kept; `None`: halves.
    pub dtype: Option<DType>,
    /// Whether kernels are measured against each other; what is found out is kept on disk.
    pub tune: Tune,
    /// Where; `None`: [`super::cache_folder`].
    pub cache_folder: Option<PathBuf>,
    /// Believe that a binding holds no more bytes than this, for tests.
    pub binding: Option<u64>,
    /// Believe that a buffer holds no more bytes than this, for tests.
    pub buffer: Option<u64>,
}

/// What of a device decides about the last digits of its results.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Name of the adapter.
    pub name: String,
    /// Vulkan, Metal, …
    pub backend: String,
    /// Name and version of the driver.
    pub driver: String,
    /// The kernel family in use.
    pub kernels: String,
    /// How weights and what feeds products are kept.
    pub dtype: String,
}

impl Gpu {
    /// What of this device decides about the last digits of its results.
    pub fn facts(&self) -> Facts {
        let info = self.info();
        Facts {
            name: info.name.clone(),
            backend: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().into(),
            kernels: format!("{:?}", self.class()).to_lowercase(),
            dtype: format!("{:?}", self.operands()).to_lowercase(),
        }
    }
}

/// The kernel family an adapter gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// No optional feature: right on every adapter.
    Portable,
    /// Subgroups of exactly 8 on a CPU (Mesa's software Vulkan): rows are spread over the lanes and
    /// handed round by shuffle, because every load costs the same there whatever its address.
    Simd8,
    /// Cooperative matrices of 8 × 8, halves in and f32 out (Apple): products run on the matrix units.
    Coop8,
    /// Cooperative matrices of 16 × 16 (NVIDIA, AMD).
    Coop16,
}

impl Class {
    /// Every family.
    pub const ALL: [Class; 4] = [Class::Portable, Class::Simd8, Class::Coop8, Class::Coop16];

    /// Whether the family works with cooperative matrices.
    pub fn is_matrix(self) -> bool {
        matches!(self, Class::Coop8 | Class::Coop16)
    }
}

impl std::str::FromStr for Class {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "portable" => Ok(Class::Portable),
            "simd8" => Ok(Class::Simd8),
            "coop8" => Ok(Class::Coop8),
            // the one the adapter has: see Prefs::class
            "coop16" | "coop" => Ok(Class::Coop16),
            _ => Err(format!("unknown kernel family `{s}`; known: portable, simd8, coop (coop8, coop16)")),
        }
    }
}

/// What kernels on cooperative matrices are built for, on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrices {
    /// Rows, columns and depth of a tile: 8 or 16.
    pub edge: u32,
    /// Invocations of a subgroup.
    pub subgroup: u32,
    /// Workgroup memory is addressed in halves and not in vectors of four (Metal): a stride counts what its pointer
    /// points to, and there that is always a half.
    pub flat: bool,
    /// A CPU that only imitates matrix units: small tiles, or compiling takes seconds.
    pub software: bool,
    /// Bytes of workgroup memory a kernel may have.
    pub workgroup_bytes: u32,
    /// Invocations a workgroup may have.
    pub invocations: u32,
}

impl Matrices {
    /// Those of known devices, for tests without one.
    pub(crate) fn examples() -> [Self; 6] {
        let device = |edge, subgroup, flat, software| Matrices {
            edge,
            subgroup,
            flat,
            software,
            workgroup_bytes: 48 << 10,
            invocations: 1024,
        };
        // NVIDIA, AMD, Intel; Apple; both imitations
        [
            device(16, 32, false, false),
            device(16, 64, false, false),
            device(16, 16, false, false),
            device(8, 32, true, false),
            device(8, 8, false, true),
            device(16, 8, false, true),
        ]
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
    /// The matrix family it would get if forced into one.
    pub matrix: Option<Class>,
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

/// Features that matrix kernels need, all of them.
pub(super) const MATRIX_FEATURES: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16).union(wgpu::Features::SUBGROUP);

/// What an adapter, with the features enabled on it, can do.
pub(super) struct Abilities {
    /// The family it gets (see [`Class`]).
    pub class: Class,
    /// Subgroups of 8, whatever the family.
    pub simd8: bool,
    /// The matrix family that may be forced, whatever the family.
    pub matrix: Option<Class>,
}

impl Abilities {
    pub(super) fn of(adapter: &wgpu::Adapter, features: wgpu::Features) -> Self {
        let info = adapter.get_info();
        let matrix = if features.contains(MATRIX_FEATURES) {
            matrix_class(&adapter.cooperative_matrix_properties())
        } else {
            None
        };
        let cpu = info.device_type == wgpu::DeviceType::Cpu;
        let eight = info.subgroup_min_size == 8 && info.subgroup_max_size == 8;
        let simd8 = cpu && eight && features.contains(wgpu::Features::SUBGROUP);
        let class = match matrix {
            // a CPU imitates matrices, at a fifth of the speed of its own family
            Some(class) if !cpu => class,
            _ if simd8 => Class::Simd8,
            _ => Class::Portable,
        };
        Self { class, simd8, matrix }
    }
}

/// The family for what an adapter multiplies: halves in, f32 out, in square tiles (WGSL has no others).
fn matrix_class(offered: &[wgpu::wgt::CooperativeMatrixProperties]) -> Option<Class> {
    use wgpu::wgt::CooperativeScalarType::{F16, F32};
    let has = |edge: u32| {
        offered.iter().any(|o| [o.m_size, o.n_size, o.k_size] == [edge; 3] && o.ab_type == F16 && o.cr_type == F32)
    };
    match () {
        () if has(16) => Some(Class::Coop16),
        () if has(8) => Some(Class::Coop8),
        () => None,
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
            let Abilities { class, matrix, .. } = Abilities::of(a, features);
            Listed { index, info, limits: a.limits(), features, class, matrix, default: Some(index) == default }
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

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::wgt::{CooperativeMatrixProperties, CooperativeScalarType as S};

    #[test]
    fn square_tiles_of_halves_summed_in_f32_make_a_matrix_family() {
        let offer = |[m_size, n_size, k_size]: [u32; 3], ab_type, cr_type| CooperativeMatrixProperties {
            m_size,
            n_size,
            k_size,
            ab_type,
            cr_type,
            saturating_accumulation: false,
        };
        let (eight, sixteen) = (offer([8; 3], S::F16, S::F32), offer([16; 3], S::F16, S::F32));
        assert_eq!(matrix_class(&[eight]), Some(Class::Coop8));
        assert_eq!(matrix_class(&[eight, sixteen]), Some(Class::Coop16));
        let others = [
            offer([8, 8, 16], S::F16, S::F32),
            offer([16, 16, 8], S::F16, S::F32),
            offer([16; 3], S::F16, S::F16),
            offer([8; 3], S::F32, S::F32),
        ];
        assert_eq!(matrix_class(&others), None);
    }
}
