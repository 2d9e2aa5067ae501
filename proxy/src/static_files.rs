//! Static files: a folder served with validators, ranges and the right media types.
//!
//! Invariants: nothing outside the folder is ever opened, whatever the path or a symbolic link says; hidden files do not
//! exist (`.well-known` does); a file that shrinks while it is sent ends in an error, never in a short success.

use std::{
    io::{self, SeekFrom},
    path::{Path, PathBuf},
    pin::Pin,
    time::SystemTime,
};

use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
};

use crate::fail::Refusal;

/// Read at once. Large enough to keep a disk busy, small enough for thousands of slow clients.
const CHUNK_BYTES: u64 = 64 * 1024;

/// One folder as a route's target.
#[derive(Debug)]
pub(crate) struct StaticSite {
    root: PathBuf,
    index: String,
    immutable: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum StaticError {
    #[error("cannot open the folder {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("{path} is not a folder")]
    NotAFolder { path: PathBuf },
}

pub(crate) type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

pub(crate) struct StaticAnswer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// `None` for HEAD, 304 and redirects.
    pub(crate) body: Option<Chunks>,
}

struct Found {
    file: File,
    length: u64,
    modified: SystemTime,
    path: PathBuf,
}

enum Lookup {
    File(Box<Found>),
    /// A folder whose path lacks the slash that relative links in its index need.
    Folder,
}

impl StaticSite {
    pub(crate) fn open(root: &Path, index: &str, immutable: bool) -> Result<StaticSite, StaticError> {
        let root = root.canonicalize().map_err(|source| StaticError::Open {
            path: root.to_owned(),
            source,
        })?;
        if !root.is_dir() {
            return Err(StaticError::NotAFolder { path: root });
        }
        Ok(StaticSite {
            root,
            index: index.to_owned(),
            immutable,
        })
    }

    /// `rest` is what the route's `*` stands for, `path` the whole normalised path; both still percent-encoded.
    pub(crate) async fn answer(
        &self,
        method: &Method,
        rest: &str,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<StaticAnswer, Refusal> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Refusal::MethodNotAllowed("GET, HEAD".to_owned()));
        }
        match self.look_up(rest, path).await? {
            Lookup::Folder => Ok(redirect_to_folder(path)),
            Lookup::File(found) => self.send(*found, method, headers).await,
        }
    }

    async fn look_up(&self, rest: &str, path: &str) -> Result<Lookup, Refusal> {
        let mut wanted = self.root.clone();
        for segment in rest.split('/').filter(|segment| !segment.is_empty()) {
            let name = percent_decode_str(segment).decode_utf8().map_err(|_| Refusal::NoFile)?;
            let hidden = name.starts_with('.') && name != ".well-known";
            if hidden || name.contains(['/', '\\', '\0']) {
                return Err(Refusal::NoFile);
            }
            wanted.push(&*name);
        }
        let (root, index) = (self.root.clone(), self.index.clone());
        let folder_slash = path.ends_with('/');
        let resolved = tokio::task::spawn_blocking(move || resolve(&root, &wanted, &index, folder_slash));
        let resolved = resolved.await.map_err(|_| Refusal::NoFile)?;
        match resolved {
            Ok(Some(path)) => {
                let file = File::open(&path).await.map_err(|_| Refusal::NoFile)?;
                let metadata = file.metadata().await.map_err(|_| Refusal::NoFile)?;
                Ok(Lookup::File(Box::new(Found {
                    file,
                    length: metadata.len(),
                    modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                    path,
                })))
            }
            Ok(None) => Ok(Lookup::Folder),
            Err(_) => Err(Refusal::NoFile),
        }
    }

    async fn send(&self, mut found: Found, method: &Method, request: &HeaderMap) -> Result<StaticAnswer, Refusal> {
        let mut headers = self.describe(&found);
        if is_unmodified(request, &headers, found.modified) {
            return Ok(StaticAnswer {
                status: StatusCode::NOT_MODIFIED,
                headers,
                body: None,
            });
        }
        let range = match request.get(header::RANGE).filter(|_| range_applies(request, &headers)) {
            Some(range) => parse_range(range.to_str().unwrap_or_default(), found.length),
            None => Range::All,
        };
        let (status, start, length) = match range {
            Range::All => (StatusCode::OK, 0, found.length),
            Range::Part { start, length } => {
                let value = format!("bytes {start}-{}/{}", start + length - 1, found.length);
                headers.insert(header::CONTENT_RANGE, visible(&value));
                (StatusCode::PARTIAL_CONTENT, start, length)
            }
            Range::Unsatisfiable => return Err(Refusal::Range(found.length)),
        };
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        if *method == Method::HEAD || length == 0 {
            return Ok(StaticAnswer {
                status,
                headers,
                body: None,
            });
        }
        if start > 0 {
            found
                .file
                .seek(SeekFrom::Start(start))
                .await
                .map_err(|_| Refusal::NoFile)?;
        }
        Ok(StaticAnswer {
            status,
            headers,
            body: Some(chunks(found.file, length)),
        })
    }

    fn describe(&self, found: &Found) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let media = mime_guess::from_path(&found.path).first_or_octet_stream();
        let text = media.type_() == "text" || matches!(media.subtype().as_str(), "javascript" | "json");
        let media = if text {
            format!("{media}; charset=utf-8")
        } else {
            media.to_string()
        };
        headers.insert(header::CONTENT_TYPE, visible(&media));
        let age = found
            .modified
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let tag = format!("\"{:x}-{:x}\"", age.as_nanos(), found.length);
        headers.insert(header::ETAG, visible(&tag));
        headers.insert(header::LAST_MODIFIED, visible(&httpdate::fmt_http_date(found.modified)));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let policy = match self.immutable {
            true => "public, max-age=31536000, immutable",
            false => "public, max-age=0, must-revalidate",
        };
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(policy));
        headers
    }
}

/// The file that `wanted` means; `None` for a folder named without its slash.
fn resolve(root: &Path, wanted: &Path, index: &str, folder_slash: bool) -> io::Result<Option<PathBuf>> {
    let inside = |path: PathBuf| match path.starts_with(root) {
        true => Ok(path),
        false => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let path = inside(wanted.canonicalize()?)?;
    let metadata = path.metadata()?;
    if metadata.is_dir() {
        if !folder_slash {
            return Ok(None);
        }
        let index = inside(path.join(index).canonicalize()?)?;
        return match index.metadata()?.is_file() {
            true => Ok(Some(index)),
            false => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
    }
    // `/file.txt/` is not a spelling of `/file.txt`; pipes and devices are not files.
    match metadata.is_file() && !folder_slash {
        true => Ok(Some(path)),
        false => Err(io::Error::from(io::ErrorKind::NotFound)),
    }
}

fn redirect_to_folder(path: &str) -> StaticAnswer {
    let mut headers = HeaderMap::new();
    headers.insert(header::LOCATION, visible(&format!("{path}/")));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    StaticAnswer {
        status: StatusCode::MOVED_PERMANENTLY,
        headers,
        body: None,
    }
}

/// RFC 9110 section 13.2.2: `If-None-Match` decides alone when it is there.
fn is_unmodified(request: &HeaderMap, answer: &HeaderMap, modified: SystemTime) -> bool {
    if let Some(tags) = request.get(header::IF_NONE_MATCH) {
        let own = answer[header::ETAG].as_bytes();
        let weak = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
        return tags
            .as_bytes()
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .any(|tag| tag == b"*" || weak(tag) == own);
    }
    let since = request
        .get(header::IF_MODIFIED_SINCE)
        .and_then(|value| value.to_str().ok());
    let since = since.and_then(|text| httpdate::parse_http_date(text).ok());
    since.is_some_and(|since| seconds(modified) <= seconds(since))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// RFC 9110 section 13.1.5: a range of another version of the file is worth nothing.
fn range_applies(request: &HeaderMap, answer: &HeaderMap) -> bool {
    match request.get(header::IF_RANGE) {
        None => true,
        Some(validator) => validator == answer[header::ETAG] || validator == answer[header::LAST_MODIFIED],
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    All,
    Part { start: u64, length: u64 },
    Unsatisfiable,
}

/// One range of bytes (RFC 9110 section 14.1.2). Several, or another unit, get the whole file, as the RFC allows.
fn parse_range(text: &str, size: u64) -> Range {
    let Some((first, last)) = text
        .strip_prefix("bytes=")
        .and_then(|range| range.trim().split_once('-'))
    else {
        return Range::All;
    };
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u64>().ok(),
        false => None,
    };
    let (start, end) = match (first.is_empty(), last.is_empty()) {
        (true, true) => return Range::All,
        (true, false) => match number(last) {
            Some(0) => return Range::Unsatisfiable,
            Some(suffix) => (size.saturating_sub(suffix), size),
            None => return Range::All,
        },
        (false, open) => match (number(first), if open { Some(u64::MAX - 1) } else { number(last) }) {
            (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(size)),
            _ => return Range::All,
        },
    };
    match start < end {
        true => Range::Part {
            start,
            length: end - start,
        },
        false => Range::Unsatisfiable,
    }
}

fn chunks(file: File, length: u64) -> Chunks {
    Box::pin(futures::stream::try_unfold(
        (file, length),
        |(mut file, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            let wanted = left.min(CHUNK_BYTES);
            let mut chunk = Vec::with_capacity(usize::try_from(wanted).unwrap_or_default());
            let read = (&mut file).take(wanted).read_to_end(&mut chunk).await? as u64;
            if read < wanted {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the file became shorter while it was sent",
                ));
            }
            Ok(Some((Bytes::from(chunk), (file, left - read))))
        },
    ))
}

fn visible(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures::TryStreamExt;

    use super::*;

    fn site() -> (tempfile::TempDir, StaticSite) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("public");
        fs::create_dir_all(root.join("sub/.well-known")).unwrap();
        fs::write(folder.path().join("secret.txt"), "secret").unwrap();
        fs::write(root.join("a b.txt"), "0123456789").unwrap();
        fs::write(root.join(".env"), "hidden").unwrap();
        fs::write(root.join("sub/index.html"), "<p>index").unwrap();
        fs::write(root.join("sub/.well-known/x"), "known").unwrap();
        std::os::unix::fs::symlink(folder.path().join("secret.txt"), root.join("link.txt")).unwrap();
        let site = StaticSite::open(&root, "index.html", false).unwrap();
        (folder, site)
    }

    /// Status, body and one header of the answer to `GET rest`.
    async fn get(site: &StaticSite, rest: &str, fields: &[(&'static str, &str)]) -> (u16, String, HeaderMap) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, value.parse().unwrap());
        }
        match site.answer(&Method::GET, rest, &format!("/{rest}"), &headers).await {
            Err(refusal) => (refusal.verdict().status.as_u16(), String::new(), HeaderMap::new()),
            Ok(answer) => {
                let body: Vec<Bytes> = match answer.body {
                    Some(chunks) => chunks.try_collect().await.unwrap(),
                    None => Vec::new(),
                };
                let body = String::from_utf8(body.concat()).unwrap();
                (answer.status.as_u16(), body, answer.headers)
            }
        }
    }

    #[tokio::test]
    async fn only_what_is_in_the_folder_is_served() {
        let (_folder, site) = site();
        for (rest, status, body) in [
            ("a%20b.txt", 200, "0123456789"),
            ("a b.txt/", 404, ""),
            ("sub/", 200, "<p>index"),
            ("sub", 301, ""),
            ("sub/.well-known/x", 200, "known"),
            (".env", 404, ""),
            ("link.txt", 404, ""),
            ("..%2fsecret.txt", 404, ""),
            ("../secret.txt", 404, ""),
            ("nothing", 404, ""),
            ("", 404, ""),
            ("a%00b", 404, ""),
            ("%ff", 404, ""),
        ] {
            let (got, text, _) = get(&site, rest, &[]).await;
            assert_eq!((got, text.as_str()), (status, body), "{rest}");
        }
    }

    #[tokio::test]
    async fn validators_and_ranges() {
        let (_folder, site) = site();
        let (_, _, headers) = get(&site, "a%20b.txt", &[]).await;
        assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
        let tag = headers["etag"].to_str().unwrap().to_owned();
        let modified = headers["last-modified"].to_str().unwrap().to_owned();
        for (fields, status, body) in [
            (vec![("if-none-match", tag.as_str())], 304, ""),
            (
                vec![("if-none-match", "\"other\""), ("if-modified-since", &modified)],
                200,
                "0123456789",
            ),
            (vec![("if-modified-since", modified.as_str())], 304, ""),
            (vec![("range", "bytes=2-4")], 206, "234"),
            (vec![("range", "bytes=-3")], 206, "789"),
            (vec![("range", "bytes=8-")], 206, "89"),
            (vec![("range", "bytes=8-99")], 206, "89"),
            (vec![("range", "bytes=10-")], 416, ""),
            (vec![("range", "bytes=1-2,4-5")], 200, "0123456789"),
            (
                vec![("range", "bytes=2-4"), ("if-range", "\"other\"")],
                200,
                "0123456789",
            ),
            (vec![("range", "bytes=2-4"), ("if-range", &tag)], 206, "234"),
        ] {
            let (got, text, _) = get(&site, "a%20b.txt", &fields).await;
            assert_eq!((got, text.as_str()), (status, body), "{fields:?}");
        }
    }

    #[tokio::test]
    async fn a_file_that_shrinks_is_an_error() {
        let (folder, site) = site();
        let path = folder.path().join("public/a b.txt");
        fs::write(&path, vec![b'x'; 200_000]).unwrap();
        let answer = site
            .answer(&Method::GET, "a%20b.txt", "/a", &HeaderMap::new())
            .await
            .unwrap();
        fs::write(&path, "short").unwrap();
        assert!(answer.body.unwrap().try_collect::<Vec<_>>().await.is_err());
    }
}
