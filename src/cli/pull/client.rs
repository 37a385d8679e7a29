//! What is asked of a hub: which files a repository has, how large they are, and their bytes.

use std::io::Read;
use std::time::Duration;

use residua::pipeline::parts::{HubId, is_commit};
use serde::Deserialize;
use ureq::http::{Response, header};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use super::choose;
use crate::cli::exit::{Failure, Outcome};

/// The hub where nothing else is said.
const ENDPOINT: &str = "https://huggingface.co";
/// Most bytes of the description of a repository.
const LISTING: u64 = 32 << 20;
/// Most bytes of a file: what is said to be larger is a mistake, or meant to be one.
const FILE_BYTES: u64 = 1 << 42;
/// Most addresses of its own that a hub may send on to.
const HOPS: usize = 5;
/// How long a server may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// The code of what asking again does not change.
const REFUSED: &str = "download.refused";

/// A connection to a hub.
pub struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// A repository at one commit.
pub struct Listing {
    pub commit: String,
    pub licence: Option<String>,
    /// All of its files.
    pub names: Vec<String>,
}

/// A file of a repository.
#[derive(Clone)]
pub struct Remote {
    pub name: String,
    pub bytes: u64,
    /// What tells its content from others: SHA-256 in 64 digits for large files, git's SHA-1 in 40 for small ones.
    pub etag: String,
    /// Where the hub has it.
    at: String,
}

/// What is read of the description of a repository; each part by itself, for hubs fill only some.
#[derive(Deserialize)]
struct About {
    sha: Option<String>,
    siblings: Option<Vec<Sibling>>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

#[derive(Deserialize)]
struct Carded {
    #[serde(rename = "cardData")]
    card: Card,
}

#[derive(Deserialize)]
struct Card {
    license: String,
}

#[derive(Deserialize)]
struct Tagged {
    tags: Vec<String>,
}

/// The licence that a description states.
fn licence(about: &[u8]) -> Option<String> {
    let card = serde_json::from_slice::<Carded>(about).map(|about| about.card.license).ok();
    let tags = || serde_json::from_slice::<Tagged>(about).map(|about| about.tags).unwrap_or_default();
    card.or_else(|| tags().iter().find_map(|t| t.strip_prefix("license:").map(String::from)))
}

impl Client {
    /// As the variables say that other programs read too: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// If the network is not to be used, or a variable is wrong.
    pub fn from_env() -> Outcome<Self> {
        let set = |name: &str| std::env::var(name).ok().map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
        if set("HF_HUB_OFFLINE").is_some_and(|v| ["1", "on", "yes", "true"].contains(&v.to_lowercase().as_str())) {
            let problem = "HF_HUB_OFFLINE is set, so nothing is downloaded; unset it to pull";
            return Err(Failure::download("pull", problem));
        }
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into()).trim_end_matches('/').to_string();
        let (secure, host) = match (endpoint.strip_prefix("https://"), endpoint.strip_prefix("http://")) {
            (Some(host), _) => (true, host),
            (None, Some(host)) => (false, host),
            (None, None) => return Err(Failure::wrong("HF_ENDPOINT", "is no address; one begins with https://")),
        };
        let token = set("HF_TOKEN");
        let here = host.rsplit_once(':').map_or(host, |(name, _)| name);
        if token.is_some() && !secure && !["127.0.0.1", "localhost", "[::1]"].contains(&here) {
            let problem = format!("{endpoint} would get HF_TOKEN unencrypted; use https:// or unset the token");
            return Err(Failure::wrong("HF_ENDPOINT", problem));
        }
        // (a token is sent to this host only: redirects lead to servers of files, whose addresses are signed)
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::Never)
            .accept_encoding("identity")
            .user_agent(concat!("residua/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE));
        Ok(Self { agent: config.build().new_agent(), endpoint, token })
    }

    /// The files of a repository.
    ///
    /// # Errors
    /// If there is no such repository, or its description is not what it should be.
    pub fn list(&self, id: &HubId) -> Outcome<Listing> {
        let address =
            format!("{}/api/models/{}/revision/{}", self.endpoint, id.repo, id.revision().replace('/', "%2F"));
        let wrong = |problem: &str| Failure::download(id, format!("{} {problem}", self.endpoint));
        let (mut response, _) = self.ask(|address| self.agent.get(address), address, id)?;
        self.judge(&response, id)?;
        let read = response.body_mut().with_config().limit(LISTING).read_to_vec();
        let text = read.map_err(|e| wrong(&format!("broke off its description: {e}")))?;
        let about: About =
            serde_json::from_slice(&text).map_err(|_| wrong("describes it as no hub does; is it one?"))?;
        let commit = about.sha.filter(|c| is_commit(c)).ok_or_else(|| wrong("names no commit of it"))?;
        let siblings = about.siblings.filter(|s| s.len() <= choose::FILES);
        let siblings = siblings.ok_or_else(|| wrong("lists none of its files, or too many"))?;
        let names: Vec<String> = siblings.into_iter().map(|s| s.rfilename).collect();
        if let Some(bad) = names.iter().find(|n| !choose::is_safe(n)) {
            let told: String = bad.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            return Err(wrong(&format!(
                "names a file `{told}`, which may lead outside its folder; nothing was written"
            )));
        }
        let plain = |text: String| text.chars().filter(|c| !c.is_control()).take(80).collect();
        Ok(Listing { commit, licence: licence(&text).map(plain), names })
    }

    /// Size and hash of a file.
    ///
    /// # Errors
    /// If the hub does not tell them.
    pub fn head(&self, id: &HubId, commit: &str, name: &str) -> Outcome<Remote> {
        let address = self.address(id, commit, name);
        let what = format!("{}/{name}", id.repo);
        let (response, at) = self.ask(|address| self.agent.head(address), address, id)?;
        if !response.status().is_redirection() {
            self.judge(&response, &what)?;
        }
        let first = |names: [&str; 2]| names.iter().find_map(|n| text(&response, n).map(String::from));
        let bytes = first(["x-linked-size", "content-length"]).and_then(|v| v.parse().ok());
        let etag = first(["x-linked-etag", "etag"]).map(|e| e.trim_start_matches("W/").trim_matches('"').to_string());
        let plain =
            |e: &String| (8..=128).contains(&e.len()) && e.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        match (bytes, etag.filter(plain)) {
            (Some(bytes), _) if bytes > FILE_BYTES => {
                let problem =
                    format!("{} says that it has {bytes} bytes, expected {FILE_BYTES} at most", self.endpoint);
                Err(Failure::download(what, format!("{problem}; is it a hub?")))
            }
            (Some(bytes), Some(etag)) => Ok(Remote { name: name.into(), bytes, etag, at }),
            _ => Err(Failure::download(what, format!("{} tells neither its size nor its hash", self.endpoint))),
        }
    }

    /// The bytes of a file from one on, and the one they really begin with: 0 if the server cannot begin in between.
    ///
    /// # Errors
    /// If it is refused, or the answer is about other bytes.
    pub fn bytes(&self, id: &HubId, file: &Remote, from: u64) -> Outcome<(impl Read + use<>, u64)> {
        let mut request = self.agent.get(&file.at);
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let what = format!("{}/{}", id.repo, file.name);
        let response = self.call(request, &what)?;
        self.judge(&response, &what)?;
        let begins = match response.status().as_u16() {
            206 => {
                let range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
                let first = range.and_then(|r| r.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
                first
                    .filter(|first| *first == from)
                    .ok_or_else(|| Failure::download(&what, "other bytes came than asked for"))?
            }
            _ => 0,
        };
        Ok((response.into_body().into_reader(), begins))
    }

    fn address(&self, id: &HubId, commit: &str, name: &str) -> String {
        let mut path = String::new();
        for b in name.bytes() {
            match b {
                b'/' | b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => path.push(b as char),
                _ => path += &format!("%{b:02X}"),
            }
        }
        format!("{}/{}/resolve/{commit}/{path}", self.endpoint, id.repo)
    }

    /// Asks, and goes on to where the hub sends within itself, as it does for a repository that was renamed: the token
    /// goes along there and nowhere else. Also the address that answered. An answer that names a file's content is not
    /// followed: the hub knows its hash, the server it sends to only knows its own.
    fn ask(
        &self,
        request: impl Fn(&str) -> RequestBuilder<WithoutBody>,
        mut address: String,
        what: &HubId,
    ) -> Outcome<(Response<Body>, String)> {
        let one = |address: &str, redirects| {
            let request = request(address).config().max_redirects(redirects).max_redirects_will_error(false);
            self.call(request.build(), what)
        };
        for _ in 0..HOPS {
            let response = one(&address, 0)?;
            if !response.status().is_redirection() || text(&response, "x-linked-etag").is_some() {
                return Ok((response, address));
            }
            match text(&response, "location").and_then(|to| self.within(to)) {
                Some(to) => address = to,
                None => break,
            }
        }
        Ok((one(&address, 10)?, address))
    }

    /// The address that a redirect leads to, if it is one of this hub.
    fn within(&self, to: &str) -> Option<String> {
        let host = self.endpoint.find("://")? + 3;
        let end = self.endpoint[host..].find('/').map_or(self.endpoint.len(), |at| host + at);
        let own = &self.endpoint[..end];
        match to.strip_prefix(own).unwrap_or(to) {
            path if path.starts_with('/') && !path.starts_with("//") => Some(format!("{own}{path}")),
            _ => None,
        }
    }

    fn call(&self, request: RequestBuilder<WithoutBody>, what: impl std::fmt::Display) -> Outcome<Response<Body>> {
        let request = match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        };
        request.call().map_err(|e| Failure::download(what, format!("{} does not answer: {e}", self.endpoint)))
    }

    /// What an answer that is none of content means.
    fn judge(&self, response: &Response<Body>, what: impl std::fmt::Display) -> Outcome {
        let status = response.status();
        let problem = match status.as_u16() {
            200..=299 => return Ok(()),
            401 | 403 if self.token.is_some() => {
                "is refused with the token in HF_TOKEN: is the token valid, and have its terms been accepted on the hub?".into()
            }
            401 | 403 => "is not there, or only for those with a token: set HF_TOKEN to yours".into(),
            404 => "is not there; is the name right, and the revision?".into(),
            429 => "is refused for now, too many were asked for; try again later".into(),
            _ => format!("is answered with {status}"),
        };
        // (what is refused now may be given later; what is not there or not allowed will not)
        let for_good = status.is_client_error() && ![408, 429].contains(&status.as_u16());
        let failure = Failure::download(what, format!("{problem} ({})", self.endpoint));
        Err(if for_good { Failure { code: REFUSED, ..failure } } else { failure })
    }
}

fn text<'a>(response: &'a Response<Body>, header: &str) -> Option<&'a str> {
    response.headers().get(header).and_then(|v| v.to_str().ok())
}
