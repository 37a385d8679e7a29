//! Where the videos of a run go, and what is written beside them: names, checked before the work.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use residua::Error;
use residua::media::Format;
use residua::pipeline::Plan;

use super::super::args::{Generate, Video};
use super::super::exit::{Failure, Outcome};
use super::super::model;
use super::super::output::{Target, check_files, slug};
use super::super::screen::Screen;

/// What names are made of.
pub struct Facts<'a> {
    pub index: usize,
    /// Which of the videos of its prompt, from 0.
    pub take: usize,
    pub plan: &'a Plan,
    pub prompt: &'a str,
    pub model: &'a str,
}

/// Where one video goes.
pub struct Place {
    pub target: Target,
    pub sidecar: Option<PathBuf>,
    pub latents: Option<PathBuf>,
    pub trace: Option<PathBuf>,
}

impl Place {
    /// A video that goes to `path`, with all that goes beside it.
    ///
    /// # Errors
    /// A place that cannot be written to, or is taken; `begun` says that what goes beside it may be there.
    pub fn at(
        video: &Video,
        path: PathBuf,
        [sidecar, latents, trace]: [Option<PathBuf>; 3],
        begun: bool,
    ) -> Outcome<Self> {
        // that of several videos is taken away again where none was finished
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty() && !f.exists()) {
            std::fs::create_dir(folder).map_err(|e| Failure::output(Error::io(folder, e)))?;
        }
        let target = Target::at(video, path)?;
        let place = Self { target, sidecar, latents, trace };
        check_files(&place.target, &place.beside(), video.force || begun)?;
        Ok(place)
    }

    fn beside(&self) -> [(&'static str, Option<&Path>); 3] {
        [
            ("sidecar", self.sidecar.as_deref()),
            ("latents-out", self.latents.as_deref()),
            ("trace", self.trace.as_deref()),
        ]
    }
}

/// Where all of them go.
pub struct Places {
    /// Folder of several videos.
    folder: Option<PathBuf>,
    /// Whether that folder was made by this run.
    made: bool,
    /// More than one.
    several: bool,
    taken: HashSet<PathBuf>,
}

impl Places {
    /// What can be said from the flags alone.
    ///
    /// # Errors
    /// Flags that cannot go together; one file for several videos.
    pub fn look(args: &Generate, screen: &Screen, count: usize) -> Outcome<Self> {
        let output = args.output.video.output.as_deref();
        let to_stdout = output.is_some_and(|p| p.as_os_str() == "-");
        if to_stdout && screen.json {
            return Err(Failure::wrong("output", "`-` and --json both want standard output; name a file"));
        }
        if to_stdout && args.output.sidecar {
            let problem = "there is nothing to put it beside: the video goes to standard output";
            return Err(Failure::wrong("sidecar", problem));
        }
        let several = count > 1;
        let mut folder = None;
        if several {
            let one = |flag: &str, path: &Path| {
                let problem = format!(
                    "{count} videos cannot all go to `{}`; give a template such as `{{index:04}}-{{seed}}`",
                    path.display()
                );
                Err(Failure::wrong(flag, problem))
            };
            if let Some(path) = output.filter(|p| !is_template(p)) {
                if to_stdout || Format::from_path(path)? != Format::PngFolder {
                    return one("output", path);
                }
                folder = Some(path.to_path_buf());
            }
            let files = [("latents-out", &args.output.latents_out), ("trace", &args.cache.trace)];
            for (flag, path) in files.into_iter().filter_map(|(flag, path)| Some((flag, path.as_deref()?))) {
                if !is_template(path) {
                    return one(flag, path);
                }
            }
            if args.input.latents_in.is_some() {
                return Err(Failure::wrong("latents-in", format!("is the start of one video, {count} are asked for")));
            }
        }
        if let Some(folder) = folder.as_deref().filter(|f| !f.is_dir()) {
            if folder.exists() {
                let problem = format!("`{}` is a file, not a folder", folder.display());
                return Err(Failure::output(Error::request("output", problem)));
            }
            // as for one that is made whole: whether its own folder lets it be
            residua::media::check_writable(&plain(folder), Format::PngFolder, false).map_err(Failure::output)?;
        }
        Ok(Self { folder, made: false, several, taken: HashSet::new() })
    }

    /// The place of one video; no two are the same. `None` if it is there already and such are to be left out.
    ///
    /// # Errors
    /// A place that cannot be written to, or is taken.
    pub fn of(&mut self, args: &Generate, facts: &Facts<'_>) -> Outcome<Option<Place>> {
        let extension = if facts.plan.all_frames() == 1 { "png" } else { "mp4" };
        let video = &args.output.video;
        let path = match (&self.folder, &video.output) {
            (Some(folder), _) => Some(folder.join(format!("{:04}-{}.{extension}", facts.index, slug(facts.prompt)))),
            (None, Some(path)) => Some(expand("output", path, facts)?),
            (None, None) => None,
        };
        if args.output.skip_existing && path.as_ref().is_some_and(|path| path.exists()) {
            return Ok(None);
        }
        let target = match (path, &self.folder) {
            (Some(path), Some(folder)) if !folder.is_dir() => Target::unchecked(video, path)?,
            (Some(path), _) => Target::at(video, path)?,
            (None, _) => {
                let stem = format!("{}-{}-{}", model::label(facts.model), facts.plan.seed, slug(facts.prompt));
                Target::free(video, &stem, extension, |path| self.taken.contains(path))?
            }
        };
        let sidecar = args.output.sidecar.then(|| target.path.with_extension("json"));
        let expanded = |flag: &str, path: &Option<PathBuf>| -> Outcome<Option<PathBuf>> {
            path.as_deref().map(|path| expand(flag, path, facts)).transpose()
        };
        let latents = expanded("latents-out", &args.output.latents_out)?;
        let trace = expanded("trace", &args.cache.trace)?;
        let place = Place { target, sidecar, latents, trace };
        let (target, beside) = (&place.target, place.beside());
        // beside a video in a folder that is still to be made, there is nothing to look at yet
        let later = self.folder.as_deref().is_some_and(|f| !f.is_dir());
        check_files(target, &beside[usize::from(later)..], video.force)?;
        if self.several {
            let all = [("output", Some(target.path.as_path()))].into_iter().chain(beside);
            for (flag, path) in all.filter_map(|(flag, path)| Some((flag, path?.to_path_buf()))) {
                if self.taken.contains(&path) {
                    let problem = format!(
                        "two videos would go to `{}`; a template with {{index}} keeps them apart",
                        path.display()
                    );
                    return Err(Failure::wrong(flag, problem));
                }
                self.taken.insert(path);
            }
        }
        Ok(Some(place))
    }

    /// Makes the folder.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn make(&mut self) -> Outcome {
        if let Some(folder) = self.folder.as_deref().filter(|f| !f.is_dir()) {
            std::fs::create_dir(folder).map_err(|e| Failure::output(Error::io(folder, e)))?;
            self.made = true;
        }
        Ok(())
    }

    /// Takes the folder away again if it was made and nothing came to be in it.
    pub fn unmake(&self) {
        if let Some(folder) = self.folder.as_deref().filter(|_| self.made) {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// Without a slash at the end, which hides the name.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

fn is_template(path: &Path) -> bool {
    path.to_string_lossy().contains('{')
}

/// Most bytes of a prompt in a name: file systems take 255.
const MOST_PROMPT: usize = 200;

/// A prompt as a name, word for word as far as names go.
fn as_name(prompt: &str) -> String {
    let unfit = |c: char| c.is_control() || r#"/\:*?"<>|"#.contains(c);
    let mut name = String::new();
    for c in prompt.trim().chars().map(|c| if unfit(c) { '_' } else { c }) {
        if name.len() + c.len_utf8() > MOST_PROMPT {
            break;
        }
        name.push(c);
    }
    // names of dots alone mean folders, and hidden files are nobody's wish
    let name = name.trim_start_matches('.').trim_end();
    if name.is_empty() { "video".into() } else { name.into() }
}

/// A path with `{index}`, `{seed}`, `{take}`, `{prompt}`, `{slug}` and `{model}` replaced; `{index:04}` fills up with zeros.
fn expand(flag: &str, path: &Path, facts: &Facts<'_>) -> Outcome<PathBuf> {
    if !is_template(path) {
        return Ok(path.to_path_buf());
    }
    let text = path.to_string_lossy();
    let wrong = |what: &str| {
        let problem = format!(
            "`{text}` has {what}; known are {{index}}, {{index:04}}, {{seed}}, {{take}}, {{prompt}}, {{slug}} and {{model}}"
        );
        Failure::wrong(flag, problem)
    };
    let mut out = String::new();
    let mut rest = &*text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or_else(|| wrong("a `{` without a `}`"))?;
        out += before;
        let (name, width) = match name.split_once(':') {
            None => (name, 0),
            Some((name @ ("index" | "seed" | "take"), width)) => {
                let width = width.strip_prefix('0').unwrap_or(width).parse().ok().filter(|w| (1..=20).contains(w));
                (name, width.ok_or_else(|| wrong(&format!("`{{{name}:…}}` with a width that is none from 1 to 20")))?)
            }
            Some(_) => return Err(wrong(&format!("`{{{name}}}`"))),
        };
        match name {
            "index" => out += &format!("{:0width$}", facts.index),
            "seed" => out += &format!("{:0width$}", facts.plan.seed),
            "take" => out += &format!("{:0width$}", facts.take),
            "prompt" => out += &as_name(facts.prompt),
            "slug" => out += &slug(facts.prompt),
            "model" => out += &model::label(facts.model),
            _ => return Err(wrong(&format!("`{{{name}}}`"))),
        }
        rest = after;
    }
    Ok((out + rest).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_as_names() {
        assert_eq!(as_name("A red circle, moving right!"), "A red circle, moving right!");
        assert_eq!(as_name("../../etc/passwd"), "_.._etc_passwd");
        assert_eq!(as_name("a\\b:c\nd"), "a_b_c_d");
        assert_eq!(as_name(" ... "), "video");
        let long = as_name(&"蝸牛".repeat(100));
        assert!(long.len() <= MOST_PROMPT && long.starts_with("蝸牛"), "{long}");
    }
}
