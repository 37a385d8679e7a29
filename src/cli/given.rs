//! Given frames and loops: their flags, what they mean for a request, how a recipe keeps them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use residua::Error;
use residua::media::Reference;
use residua::pipeline::{Given, Long, Plan, Posterior, Request};
use residua::tensor::sha256;
use residua::text::prompt::Embedded;
use serde_json::{Value, json};

use super::exit::{Failure, Outcome};

#[derive(Args)]
#[command(next_help_heading = "Given frames")]
pub struct Flags {
    /// First frame: PNG, JPEG, WebP or GIF, scaled and cut to the size of the video
    #[arg(short, long, value_name = "FILE", aliases = ["init-img", "reference-path"])]
    pub image: Option<PathBuf>,
    /// Frame the video ends with: it becomes the first of the last 17
    #[arg(long, value_name = "FILE")]
    pub end_image: Option<PathBuf>,
    /// Frames of a picture or clip (MP4, animated GIF or PNG, folder of PNGs) and where they go, as
    /// loop,from,to,length,edit in latent frames [default of what is left out: 0,0,0,1,0]
    #[arg(long = "ref", value_name = "FILE[:MASK]")]
    pub references: Vec<String>,
    /// Where the files of --image, separated by `;`, go, in Open-Sora's own words: loop,file,from,to,length,edit;…
    #[arg(long, value_name = "STRATEGY", requires = "image", conflicts_with_all = ["end_image", "references"])]
    pub mask_strategy: Option<String>,
    /// Given frames start at multiples of so many latent frames, or `off`
    #[arg(long, value_name = "N", default_value = "5", value_parser = align)]
    pub align: Align,
    /// What the encoder makes of given frames: a sample of its latents, as Open-Sora takes, or their mean
    #[arg(long, value_name = "WHAT", value_enum, default_value = "sample")]
    pub posterior: Latents,
    /// Clips that make the video, each going on where the one before ends; `|0|text|2|text` gives them texts
    #[arg(long = "loop", value_name = "N", default_value_t = 1)]
    pub clips: usize,
    /// Latent frames that clips share: 5 are 17 frames
    #[arg(long, value_name = "N", default_value_t = 5, alias = "condition-frame-length")]
    pub condition_frames: usize,
    /// How far the frames shared may change: 0 not at all, 1 entirely
    #[arg(long, value_name = "RATIO", default_value_t = 0.0, alias = "condition-frame-edit")]
    pub condition_edit: f64,
}

/// `None` takes starts at their word.
#[derive(Clone, Copy)]
pub struct Align(Option<usize>);

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Latents {
    Sample,
    Mean,
}

fn align(text: &str) -> Result<Align, String> {
    match text.parse() {
        _ if text == "off" => Ok(Align(None)),
        Ok(n) if (1..=4096).contains(&n) => Ok(Align(Some(n))),
        _ => Err("expected a number of latent frames from 1 to 4096, or `off`".into()),
    }
}

/// Files of given frames, by number, and which of them is to end the video.
#[derive(Clone, Default)]
pub struct Files {
    names: Vec<String>,
    hashes: Vec<Option<String>>,
    end: Option<usize>,
}

/// Puts the flags' given frames and loops into a request. All files are read.
///
/// # Errors
/// Wrong use; a file that is missing, damaged, too large or something else.
pub fn take(flags: &Flags, request: &mut Request) -> Outcome<Files> {
    request.long = Long { clips: flags.clips, condition_frames: flags.condition_frames, edit: flags.condition_edit };
    let posterior = match flags.posterior {
        Latents::Sample => Posterior::Sample,
        Latents::Mean => Posterior::Mean,
    };
    request.given = Given { align: flags.align.0, posterior, ..Given::default() };
    let mut files = Files::default();
    if let Some(strategy) = &flags.mask_strategy {
        for name in flags.image.iter().flat_map(|files| names(files)) {
            request.given.references.push(Arc::new(read(Path::new(&name))?));
            files.add(&name)?;
        }
        request.given.mask_strategy.clone_from(strategy);
    } else {
        if let Some(path) = &flags.image {
            place(request, &mut files, path, "0", "image")?;
        }
        if let Some(path) = &flags.end_image {
            files.end = Some(place(request, &mut files, path, "0,0,-1", "end-image")?);
        }
        for word in &flags.references {
            let (path, mask) = file_and_mask(word);
            place(request, &mut files, Path::new(path), mask, "ref")?;
        }
    }
    Ok(files)
}

/// The given frames of a request: those of the flags, `files`, or those its prompt names, which are read.
///
/// # Errors
/// As [`take`]; frames given in both ways.
pub fn embedded(files: &Files, request: &mut Request) -> Outcome<Files> {
    let mut files = files.clone();
    let paths = Embedded::split(&request.prompt)?.reference_path.unwrap_or_default();
    if request.take_embedded().map_err(|e| if matches!(e, Error::Io { .. }) { Failure::input(e) } else { e.into() })? {
        for name in paths.split(';').filter(|name| !name.is_empty()) {
            files.add(name)?;
        }
    }
    Ok(files)
}

fn names(files: &Path) -> Vec<String> {
    files.to_string_lossy().split(';').map(String::from).collect()
}

/// Reads a file and gives it its place; its number.
fn place(request: &mut Request, files: &mut Files, path: &Path, mask: &str, flag: &str) -> Outcome<usize> {
    let reference = read(path)?;
    let count = reference.frames().count();
    if flag != "ref" && matches!(reference, Reference::Clip(_)) {
        let name = path.display();
        let failure = Failure::wrong(flag, format!("`{name}` is a clip of {count} frames, a picture is needed here"));
        return Err(
            failure.hint(format!("--ref {name}:0 takes its first latent frame, --ref {name}:0,0,0,5 five of them"))
        );
    }
    files.add(&path.to_string_lossy())?;
    Ok(request.given.place(reference, mask)?)
}

/// Reads a file of given frames.
///
/// # Errors
/// If it is missing, damaged, too large or something else.
pub fn read(path: &Path) -> Outcome<Reference> {
    Reference::read(path).map_err(Failure::input)
}

/// The parts of `FILE:MASK`; a colon in a file's name is none before a mask.
fn file_and_mask(word: &str) -> (&str, &str) {
    let Some((file, mask)) = word.rsplit_once(':') else { return (word, "0") };
    let numbers = mask.chars().all(|c| c.is_ascii_digit() || ",;.- ".contains(c));
    if numbers || (Path::new(file).exists() && !Path::new(word).exists()) { (file, mask) } else { (word, "0") }
}

impl Files {
    /// Those that a recipe names, and which of them is to end the video.
    pub fn of(recipe: &Value, end: Option<usize>) -> Self {
        let list = recipe.pointer("/given/references").and_then(Value::as_array);
        let text = |file: &Value, field: &str| file[field].as_str().map(String::from);
        let (names, hashes) =
            list.into_iter().flatten().map(|f| (text(f, "file").unwrap_or_default(), text(f, "sha256"))).unzip();
        Self { names, hashes, end }
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The one that is to end the video.
    pub fn end(&self) -> Option<usize> {
        self.end
    }

    fn add(&mut self, name: &str) -> Outcome {
        let path = Path::new(name);
        self.hashes.push(if path.is_file() { Some(sha256(path)?) } else { None });
        self.names.push(name.into());
        Ok(())
    }

    /// Whether the frame that is to end the video comes to lie where it does.
    ///
    /// # Errors
    /// If the video is too short for it.
    pub fn check_end(&self, plan: &Plan) -> Outcome {
        let Some(end) = self.end else { return Ok(()) };
        let copies = plan.places(0)?;
        if copies.iter().any(|c| c.reference == end && c.target_start > 0) {
            return Ok(());
        }
        let problem = format!(
            "{} frames are a single chunk of 17, whose first frame it would become; ask for 34 or more, or --align off",
            plan.frames
        );
        Err(Failure::wrong("end-image", problem))
    }

    /// What goes where, for people.
    ///
    /// # Errors
    /// None that planning has not found.
    pub fn lines(&self, plan: &Plan) -> Outcome<Vec<String>> {
        let (mut lines, t) = (Vec::new(), plan.latent[1]);
        for clip in 0..plan.long.clips {
            let of = if plan.long.clips > 1 { format!(" of clip {clip}") } else { String::new() };
            for copy in plan.places(clip)? {
                let name = self.names.get(copy.reference).map_or("", String::as_str);
                let (first, last) = (copy.target_start, copy.target_start + copy.length - 1);
                let frames = if first == last { format!("frame {first}") } else { format!("frames {first}-{last}") };
                let kept = if copy.edit == 0.0 { "kept".into() } else { format!("changed from level {}", copy.edit) };
                lines.push(format!("given   {name} at latent {frames} (of 0-{}){of}, {kept}", t - 1));
            }
        }
        Ok(lines)
    }

    /// For recipes and events; null if nothing is given.
    pub fn recipe(&self, plan: &Plan) -> Value {
        if plan.given.is_empty() {
            return Value::Null;
        }
        let files: Vec<Value> =
            self.names.iter().zip(&self.hashes).map(|(file, sha256)| json!({"file": file, "sha256": sha256})).collect();
        let posterior = posterior(plan);
        json!({"references": files, "posterior": posterior, "mask_strategy": plan.given.mask_strategy, "align": plan.given.align})
    }
}

/// The same of a loop; null if there is none.
pub fn loop_recipe(plan: &Plan) -> Value {
    let Long { clips, condition_frames, edit } = plan.long;
    if clips == 1 {
        return Value::Null;
    }
    let posterior = posterior(plan);
    json!({"clips": clips, "posterior": posterior, "condition_frames": condition_frames, "condition_edit": edit, "frames": plan.all_frames()})
}

fn posterior(plan: &Plan) -> &'static str {
    match plan.given.posterior {
        Posterior::Sample => "sample",
        Posterior::Mean => "mean",
    }
}

/// The flags that say what a recipe says.
pub fn rerun(recipe: &Value) -> Vec<(&'static str, String)> {
    let mut flags = Vec::new();
    if let Some(given) = recipe.get("given").filter(|g| g.is_object()) {
        let list = given["references"].as_array();
        let names: Vec<&str> = list.into_iter().flatten().filter_map(|r| r["file"].as_str()).collect();
        flags.push(("--image", names.join(";")));
        flags.push(("--mask-strategy", given["mask_strategy"].as_str().unwrap_or_default().into()));
        match given["align"].as_u64() {
            Some(5) => {}
            Some(n) => flags.push(("--align", n.to_string())),
            None => flags.push(("--align", "off".into())),
        }
    }
    if ["/given/posterior", "/loop/posterior"].iter().any(|at| recipe.pointer(at).is_some_and(|p| p == "mean")) {
        flags.push(("--posterior", "mean".into()));
    }
    if let Some(long) = recipe.get("loop").filter(|l| l.is_object()) {
        for (flag, field, own) in [
            ("--loop", "clips", json!(1)),
            ("--condition-frames", "condition_frames", json!(5)),
            ("--condition-edit", "condition_edit", json!(0.0)),
        ] {
            if let Some(value) = long.get(field).filter(|v| **v != own) {
                flags.push((flag, value.to_string()));
            }
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_masks() {
        assert_eq!(file_and_mask("a.png"), ("a.png", "0"));
        assert_eq!(file_and_mask("a.png:0,0,-1;1"), ("a.png", "0,0,-1;1"));
        assert_eq!(file_and_mask(r"C:\a.png"), (r"C:\a.png", "0"));
        assert_eq!(file_and_mask(r"C:\a.png:0,0,5,1,0.4"), (r"C:\a.png", "0,0,5,1,0.4"));
        assert_eq!(file_and_mask("Cargo.toml:x"), ("Cargo.toml", "x"), "a file that is there with a mask that is none");
    }

    #[test]
    fn flags_of_a_recipe() {
        let recipe = json!({
            "given": {"references": [{"file": "a.png"}, {"file": "b.png"}], "mask_strategy": "0;0,1,0,-1", "align": null},
            "loop": {"clips": 3, "condition_frames": 5, "condition_edit": 0.5, "frames": 119},
        });
        let flags: Vec<String> = rerun(&recipe).iter().map(|(flag, value)| format!("{flag} {value}")).collect();
        let expected =
            ["--image a.png;b.png", "--mask-strategy 0;0,1,0,-1", "--align off", "--loop 3", "--condition-edit 0.5"];
        assert_eq!(flags, expected);
        assert!(rerun(&json!({"given": null, "loop": null})).is_empty());
    }
}
