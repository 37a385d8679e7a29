//! What a request fixes beforehand: frames a video is to contain, and clips that continue one another.

use std::path::Path;
use std::sync::Arc;

use super::Request;
use super::mask_strategy::{self, ALIGN, Plan};
use crate::error::{Error, Result};
use crate::media::Reference;
use crate::text::prompt::Embedded;

/// Most clips that are taken for a wish and not for a slip.
const MOST_CLIPS: usize = 1000;
/// Most frames of a video of several clips.
const MOST_FRAMES: usize = 20_000;
/// Latent frames that are coded together, and the frames of the video they are.
const CHUNK: (usize, usize) = (5, 17);

/// Frames a video is to contain, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// Pictures and clips, by number.
    pub references: Vec<Arc<Reference>>,
    /// Where their latent frames go, in the grammar of [`mask_strategy`].
    pub mask_strategy: String,
    /// Latent frames start at multiples of this; `None` takes the strategy at its word.
    pub align: Option<usize>,
    /// What of the encoder's distribution stands for given frames, and for those that clips share.
    pub posterior: Posterior,
}

/// What of an encoder's distribution of latents is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Posterior {
    /// A sample, as Open-Sora does.
    #[default]
    Sample,
    /// The mean: nearer to the frames where the encoder is uncertain.
    Mean,
}

impl Default for Given {
    /// Nothing given; starts aligned as in the released configurations.
    fn default() -> Self {
        let posterior = Posterior::default();
        Self { references: Vec::new(), mask_strategy: String::new(), align: Some(ALIGN), posterior }
    }
}

impl Given {
    /// Adds a reference with the groups of the strategy that place it; returns its number. A group here is without
    /// that number: `loop,reference start,target start,length,edit ratio`; what is left out at its end is `0,0,0,1,0`.
    ///
    /// # Errors
    /// [`Error::Request`] if the groups cannot be read.
    pub fn place(&mut self, reference: Reference, groups: &str) -> Result<usize> {
        let number = self.references.len();
        let mut placed = Vec::new();
        for group in groups.split(';') {
            placed.push(match group.split_once(',') {
                Some((at_loop, rest)) => format!("{at_loop},{number},{rest}"),
                None => format!("{group},{number}"),
            });
        }
        let placed = placed.join(";");
        mask_strategy::parse(&placed)?;
        if !self.mask_strategy.is_empty() {
            self.mask_strategy.push(';');
        }
        self.mask_strategy += &placed;
        self.references.push(Arc::new(reference));
        Ok(number)
    }

    /// Whether nothing is given.
    pub fn is_empty(&self) -> bool {
        self.references.is_empty() && self.mask_strategy.is_empty()
    }

    /// Where given frames go in a clip of `frames` latent frames, the references having so many. What continues the
    /// clip before comes on top.
    ///
    /// differs: upstream numbers finished clips among the references as well; here a strategy can only name given ones.
    pub(super) fn places(&self, clip: usize, frames: usize, held: &[usize]) -> Result<Plan> {
        mask_strategy::apply(&mask_strategy::parse(&self.mask_strategy)?, clip, frames, held, self.align)
    }

    /// Whether every group finds its reference and its place. `frames` are the latent frames of a clip, `latents` those
    /// of a reference of so many frames; returned are those of all references.
    pub(super) fn check(&self, long: &Long, frames: usize, latents: impl Fn(usize) -> usize) -> Result<Vec<usize>> {
        let groups = mask_strategy::parse(&self.mask_strategy)?;
        let wrong = |problem: String| Err(Error::request("mask strategy", problem));
        if let Some(group) = groups.iter().find(|g| !usize::try_from(g.at_loop).is_ok_and(|l| l < long.clips)) {
            let clips = long.clips;
            return wrong(format!("group `{group}` is for clip {} of {clips} (counted from 0)", group.at_loop));
        }
        if groups.is_empty() && !self.references.is_empty() {
            let problem = "is empty, so that no given frame has a place; `0` makes the first reference the first frame";
            return wrong(problem.into());
        }
        let held: Vec<usize> = self.references.iter().map(|r| latents(r.frames().count())).collect();
        (0..long.clips).try_for_each(|clip| self.places(clip, frames, &held).map(drop))?;
        Ok(held)
    }
}

/// A video longer than one clip: each clip starts with the last frames of the one before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Long {
    /// Clips, at least 1.
    pub clips: usize,
    /// Latent frames that a clip takes over: whole chunks of 5, which are 17 frames.
    pub condition_frames: usize,
    /// How far frames taken over may be changed: 0 not at all, 1 entirely.
    pub edit: f64,
}

impl Default for Long {
    /// One clip; 5 latent frames taken over, unchanged.
    fn default() -> Self {
        Self { clips: 1, condition_frames: CHUNK.0, edit: 0.0 }
    }
}

impl Long {
    /// Frames of the video, a clip having `frames`.
    pub fn frames(&self, frames: usize) -> usize {
        frames + (self.clips - 1) * (frames - self.shared().min(frames))
    }

    /// Frames of the video that a clip shares with the one before.
    pub fn shared(&self) -> usize {
        self.condition_frames / CHUNK.0 * CHUNK.1
    }

    /// Whether clips of so many frames, and latent frames, can be joined.
    pub(super) fn check(&self, frames: usize, latent_frames: usize) -> Result<()> {
        let wrong = |field: &str, problem: String| Err(Error::request(field, problem));
        if !(1..=MOST_CLIPS).contains(&self.clips) {
            return wrong("loop", format!("{} is not between 1 and {MOST_CLIPS}", self.clips));
        }
        if !(0.0..=1.0).contains(&self.edit) {
            return wrong("condition edit", format!("{} is not between 0 and 1", self.edit));
        }
        if self.clips == 1 {
            return Ok(());
        }
        let (unit, pixels) = CHUNK;
        if !frames.is_multiple_of(pixels) || latent_frames != frames / pixels * unit {
            let problem =
                format!("{frames} frames are no whole chunks of {pixels}, as clips of a longer video must be");
            return wrong("frames", problem);
        }
        let most = latent_frames.saturating_sub(unit);
        if most == 0 {
            let problem =
                format!("{frames} is a single chunk, which leaves nothing new; ask for {} or more", 2 * pixels);
            return wrong("frames", problem);
        }
        if self.condition_frames == 0 || !self.condition_frames.is_multiple_of(unit) || self.condition_frames > most {
            let problem = format!(
                "{} is not a multiple of {unit} from {unit} to {most}: latent frames that clips of {frames} frames can share",
                self.condition_frames
            );
            return wrong("condition frames", problem);
        }
        match self.frames(frames) {
            ..=MOST_FRAMES => Ok(()),
            all => wrong("loop", format!("{} clips make {all} frames, at most {MOST_FRAMES}", self.clips)),
        }
    }
}

impl Request {
    /// Takes `{"reference_path": …, "mask_strategy": …}` out of the prompt and reads the files it names, separated by
    /// `;`. Says whether there was any such thing. A host that does not trust its prompts does not call this.
    ///
    /// # Errors
    /// [`Error::Request`] if the object cannot be read, or the request has given frames already; those of
    /// [`Reference::read`].
    pub fn take_embedded(&mut self) -> Result<bool> {
        let Embedded { text, reference_path, mask_strategy } = Embedded::split(&self.prompt)?;
        let found = reference_path.is_some() || mask_strategy.is_some();
        if found && !self.given.is_empty() {
            let problem =
                "names given frames itself (`reference_path`, `mask_strategy`), and others are given beside it";
            return Err(Error::request("prompt", problem));
        }
        if found {
            let files = reference_path.iter().flat_map(|paths| paths.split(';')).filter(|path| !path.is_empty());
            self.given.references =
                files.map(|path| Reference::read(Path::new(path)).map(Arc::new)).collect::<Result<_>>()?;
            self.given.mask_strategy = mask_strategy.unwrap_or_default();
        }
        self.prompt = text;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Frames;

    fn picture() -> Reference {
        Reference::Picture(Frames { width: 1, height: 1, fps: 1.0, rgb: vec![1, 2, 3] })
    }

    #[test]
    fn groups_get_their_number() {
        let mut given = Given::default();
        assert!(given.is_empty());
        assert_eq!(given.place(picture(), "0").unwrap(), 0);
        assert_eq!(given.place(picture(), "0,0,-1;1,2,3,4,0.5").unwrap(), 1);
        assert_eq!(given.mask_strategy, "0,0;0,1,0,-1;1,1,2,3,4,0.5");
        for bad in ["", "a", "0,0,0,0,0,0", "0,", "0;;1", "0,0,0,1,2"] {
            assert!(given.clone().place(picture(), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn places_are_checked() {
        let check = |given: &Given, clips: usize| given.check(&Long { clips, ..Long::default() }, 15, |_| 1);
        let mut given = Given::default();
        assert!(check(&given, 1).is_ok() && check(&given, 3).is_ok());
        given.place(picture(), "0;2,0,-1").unwrap();
        assert!(check(&given, 3).is_ok());
        assert!(check(&given, 2).unwrap_err().to_string().contains("clip 2 of 2"));
        given.mask_strategy = "0,0,0,15".into();
        assert!(check(&given, 1).unwrap_err().to_string().contains("starts at frame 15"));
        given.mask_strategy = "0,1".into();
        assert!(check(&given, 1).is_err());
        given.mask_strategy = String::new();
        for clips in [1, 3] {
            assert!(check(&given, clips).unwrap_err().to_string().contains("no given frame has a place"));
        }
    }

    #[test]
    fn lengths() {
        let long = Long { clips: 3, ..Long::default() };
        assert_eq!((long.frames(51), Long::default().frames(51)), (51 + 34 + 34, 51));
        assert!(long.check(51, 15).is_ok() && long.check(34, 10).is_ok());
        for (frames, latents) in [(1, 1), (17, 5), (21, 6), (50, 14)] {
            assert!(long.check(frames, latents).is_err(), "{frames}");
            assert!(Long::default().check(frames, latents).is_ok());
        }
        for condition_frames in [0, 1, 6, 15, usize::MAX] {
            assert!(Long { condition_frames, ..long }.check(51, 15).is_err(), "{condition_frames}");
        }
        assert!(Long { clips: 0, ..long }.check(51, 15).is_err());
        assert!(Long { edit: f64::NAN, ..long }.check(51, 15).is_err());
    }

    #[test]
    fn embedded_references() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        image::RgbImage::from_pixel(3, 2, image::Rgb([9, 8, 7])).save(&path).unwrap();
        let prompt =
            format!("a snail {{\"reference_path\": \"{0};{0}\", \"mask_strategy\": \"0;0,1,0,-1\"}}", path.display());
        let mut request = Request::new(prompt);
        assert!(request.clone().take_embedded().unwrap());
        request.take_embedded().unwrap();
        assert_eq!((request.prompt.as_str(), request.given.references.len()), ("a snail ", 2));
        assert_eq!(request.given.mask_strategy, "0;0,1,0,-1");
        assert!(!request.take_embedded().unwrap(), "and no more");
        request.prompt = "x {\"mask_strategy\": \"0\"}".into();
        assert!(matches!(request.take_embedded(), Err(Error::Request { .. })), "given twice");
        let mut missing = Request::new("x {\"reference_path\": \"/nowhere.png\"}");
        assert!(matches!(missing.take_embedded(), Err(Error::Io { .. })));
    }
}
