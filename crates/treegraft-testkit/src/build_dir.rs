//! Build directories of Flatpak apps and runtimes, made of the files of this machine.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use flate2::write::{GzEncoder, ZlibEncoder};
use flate2::{Compression, Crc};

use crate::rng::{self, SplitMix64};

/// Where files are taken from, relative to `/`: programs, libraries, and data with its many small files.
const SOURCE_FOLDERS: [&str; 3] = ["usr/bin", "usr/lib", "usr/share"];
/// How many files of the machine are considered; a walk of all of `/usr` takes too long.
const MAX_CANDIDATES: usize = 60_000;
/// How deep below a source folder files are looked for.
const MAX_DEPTH: usize = 6;
/// One of so many entries is a link to a file next to it, about as in a real runtime.
const ENTRIES_PER_SYMLINK: usize = 8;
/// The side of the app's icon in pixels, one of the two sizes that appstream looks for.
const ICON_PIXELS: u8 = 64;

/// What a build directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildKind {
    /// An app that runs on the runtime of this id.
    App {
        /// The id of the runtime, such as `org.example.Platform`.
        runtime_id: String,
    },
    /// A runtime, or an SDK.
    Runtime,
}

/// The plan of a build directory; the same plan gives the same files on the same machine.
///
/// The files that a seed chooses come in a fixed order: with the same seed, an SDK with more files than its Platform has
/// all of the Platform's and some more, as real ones do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildDir {
    /// The id of the app or runtime.
    pub id: String,
    /// What it is.
    pub kind: BuildKind,
    /// The branch.
    pub branch: String,
    /// The processor, in Flatpak's words.
    pub arch: String,
    /// What the choice of files and the changes depend on.
    pub seed: u64,
    /// How many regular files of the machine are in it.
    pub file_count: usize,
    /// How long the files that are taken are at most.
    pub max_file_bytes: u64,
}

/// The versions of one build: the first, or one in which some files have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    number: u64,
    changed: usize,
}

impl Version {
    /// Returns the version that has the files as they are on the machine.
    pub const fn first() -> Self {
        Self { number: 1, changed: 0 }
    }

    /// Returns the version in which so many files differ from the first.
    pub const fn next(changed: usize) -> Self {
        Self::numbered(2, changed)
    }

    /// Returns a later version; another number changes other files, and the same ones in another way.
    pub const fn numbered(number: u64, changed: usize) -> Self {
        Self { number, changed }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// How many regular files of the machine are in it.
    pub files: usize,
    /// How many symbolic links are in it.
    pub symlinks: usize,
    /// How long the files of the machine are together.
    pub bytes: u64,
    /// The files that differ from the first version, relative to the build directory.
    pub changed: Vec<PathBuf>,
}

impl BuildDir {
    /// Plans an app with 40 files.
    pub fn app(id: &str, runtime_id: &str) -> Self {
        Self::new(id, BuildKind::App { runtime_id: runtime_id.to_owned() })
    }

    /// Plans a runtime or SDK with 40 files.
    pub fn runtime(id: &str) -> Self {
        Self::new(id, BuildKind::Runtime)
    }

    fn new(id: &str, kind: BuildKind) -> Self {
        let (branch, arch) = ("master".to_owned(), std::env::consts::ARCH.to_owned());
        Self { id: id.to_owned(), kind, branch, arch, seed: 1, file_count: 40, max_file_bytes: 1024 * 1024 }
    }

    /// Plans another choice of files.
    #[must_use]
    pub fn with_files(mut self, seed: u64, file_count: usize) -> Self {
        (self.seed, self.file_count) = (seed, file_count);
        self
    }

    /// Returns the ref that `flatpak build-export` commits it to.
    pub fn flatpak_ref(&self) -> String {
        let kind = if self.kind == BuildKind::Runtime { "runtime" } else { "app" };
        format!("{kind}/{}/{}/{}", self.id, self.arch, self.branch)
    }

    /// Writes a version to a folder, which must not exist or be empty.
    #[track_caller]
    pub fn write(&self, folder: &Path, version: Version) -> Written {
        self.try_write(folder, version)
            .unwrap_or_else(|error| panic!("Could not write build directory `{}`: {error}", folder.display()))
    }

    fn try_write(&self, folder: &Path, version: Version) -> io::Result<Written> {
        fs::create_dir_all(folder.join("files"))?;
        fs::write(folder.join("metadata"), self.metadata())?;
        let prefix = match self.kind {
            BuildKind::App { .. } => "files",
            BuildKind::Runtime => "usr",
        };
        let written = self.write_machine_files(folder, prefix, version)?;
        if matches!(self.kind, BuildKind::App { .. }) {
            fs::create_dir_all(folder.join("var"))?;
            self.write_app_data(folder, version)?;
        }
        Ok(written)
    }

    fn metadata(&self) -> String {
        let (arch, branch) = (&self.arch, &self.branch);
        match &self.kind {
            BuildKind::App { runtime_id } => {
                let sdk_id = runtime_id.replace("Platform", "Sdk");
                format!(
                    "[Application]\nname={}\nruntime={runtime_id}/{arch}/{branch}\nsdk={sdk_id}/{arch}/{branch}\n\
                     command=run\n\n[Context]\nshared=network;ipc;\nsockets=x11;wayland;\n",
                    self.id
                )
            }
            BuildKind::Runtime => {
                let (platform, sdk) = (self.id.replace("Sdk", "Platform"), self.id.replace("Platform", "Sdk"));
                format!(
                    "[Runtime]\nname={}\nruntime={platform}/{arch}/{branch}\nsdk={sdk}/{arch}/{branch}\n\n\
                     [Environment]\nGI_TYPELIB_PATH=/app/lib/girepository-1.0\n",
                    self.id
                )
            }
        }
    }

    fn write_machine_files(&self, folder: &Path, prefix: &str, version: Version) -> io::Result<Written> {
        let chosen = self.choose();
        let mut order: Vec<usize> = (0..chosen.len()).collect();
        let version_seed = self.seed ^ version.number.rotate_left(32);
        order.sort_by_key(|index| rng::hash(version_seed, &index.to_le_bytes()));
        let changed: HashSet<usize> = order.into_iter().take(version.changed).collect();
        assert_eq!(changed.len(), version.changed, "a version cannot change more files than there are");

        let mut written = Written { files: chosen.len(), symlinks: 0, bytes: 0, changed: Vec::new() };
        for (index, source) in chosen.iter().enumerate() {
            let relative = Path::new(prefix).join(source.relative_path(index));
            let target = folder.join(&relative);
            let parent = target.parent().expect("the path has a folder in front of it");
            fs::create_dir_all(parent)?;
            let (mut content, mode) = source.read(self.seed)?;
            if changed.contains(&index) {
                change(&mut content, &mut SplitMix64::new(rng::hash(version_seed, &index.to_be_bytes())));
                written.changed.push(relative);
            }
            written.bytes += u64::try_from(content.len()).expect("a file fits into memory");
            fs::write(&target, content)?;
            fs::set_permissions(&target, Permissions::from_mode(mode))?;
            if index % ENTRIES_PER_SYMLINK == 0 {
                let name = target.file_name().expect("a file has a name");
                symlink(name, parent.join(format!("link-{index}")))?;
                written.symlinks += 1;
            }
        }
        Ok(written)
    }

    /// Chooses files of the machine in an order that depends on the seed alone, and invents what the machine lacks.
    fn choose(&self) -> Vec<Source> {
        let mut fitting: Vec<&Candidate> =
            candidates().iter().filter(|candidate| candidate.bytes <= self.max_file_bytes).collect();
        fitting.sort_by_cached_key(|candidate| rng::hash(self.seed, candidate.path.as_os_str().as_encoded_bytes()));
        let machine = fitting.into_iter().map(|candidate| Source::Machine(candidate.path.clone()));
        machine.chain(std::iter::repeat(Source::Invented)).take(self.file_count).collect()
    }

    /// Writes what a desktop wants of an app: launcher, icon and appstream data, and what of it is exported.
    fn write_app_data(&self, folder: &Path, version: Version) -> io::Result<()> {
        let id = &self.id;
        let desktop = format!("[Desktop Entry]\nType=Application\nName={id}\nExec=run\nIcon={id}\n");
        let component = format!(
            "<component type=\"desktop-application\"><id>{id}</id><name>{id}</name><summary>An app of a test</summary>\
             <metadata_license>CC0-1.0</metadata_license><icon type=\"cached\" height=\"{ICON_PIXELS}\" \
             width=\"{ICON_PIXELS}\">{id}.png</icon><releases><release version=\"{}\"/></releases></component>\n",
            version.number
        );
        let mut collection = GzEncoder::new(Vec::new(), Compression::default());
        writeln!(collection, "<components version=\"0.8\">{component}</components>")?;
        let size = format!("{ICON_PIXELS}x{ICON_PIXELS}");
        let icon = png_of_one_colour([u8::try_from(version.number % 256).unwrap_or(0), 128, 64]);
        let launcher = format!("share/applications/{id}.desktop");
        let themed_icon = format!("share/icons/hicolor/{size}/apps/{id}.png");
        let files = [
            ("files", "bin/run".to_owned(), b"#!/bin/sh\necho run\n".to_vec()),
            ("files", launcher.clone(), desktop.clone().into_bytes()),
            ("export", launcher, desktop.into_bytes()),
            ("files", themed_icon.clone(), icon.clone()),
            ("export", themed_icon, icon.clone()),
            ("files", format!("share/metainfo/{id}.metainfo.xml"), component.into_bytes()),
            ("files", format!("share/app-info/xmls/{id}.xml.gz"), collection.finish()?),
            ("files", format!("share/app-info/icons/flatpak/{size}/{id}.png"), icon),
        ];
        for (part, path, content) in files {
            let path = folder.join(part).join(path);
            fs::create_dir_all(path.parent().expect("the path has a folder in front of it"))?;
            fs::write(path, content)?;
        }
        fs::set_permissions(folder.join("files/bin/run"), Permissions::from_mode(0o755))
    }
}

/// Where the content of one file comes from.
#[derive(Clone)]
enum Source {
    Machine(PathBuf),
    /// The machine has too few files.
    Invented,
}

impl Source {
    /// Returns the place in the build directory: `bin`, `lib` or `share` as on the machine.
    fn relative_path(&self, index: usize) -> PathBuf {
        match self {
            Self::Machine(path) => path.strip_prefix("/usr").expect("all sources are below /usr").to_owned(),
            Self::Invented => PathBuf::from(format!("share/invented/{index}")),
        }
    }

    /// Returns content and mode.
    fn read(&self, seed: u64) -> io::Result<(Vec<u8>, u32)> {
        match self {
            Self::Machine(path) => {
                let executable = fs::metadata(path)?.permissions().mode() & 0o100 != 0;
                Ok((fs::read(path)?, if executable { 0o755 } else { 0o644 }))
            }
            Self::Invented => Ok((SplitMix64::new(seed).bytes(10_000), 0o644)),
        }
    }
}

struct Candidate {
    path: PathBuf,
    bytes: u64,
}

/// Lists regular files below the source folders, once per process.
fn candidates() -> &'static [Candidate] {
    static FOUND: OnceLock<Vec<Candidate>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let mut found = Vec::new();
        for (number, folder) in SOURCE_FOLDERS.iter().enumerate() {
            let limit = MAX_CANDIDATES * (number + 1) / SOURCE_FOLDERS.len();
            collect(&Path::new("/").join(folder), MAX_DEPTH, limit, &mut found);
        }
        found
    })
}

fn collect(folder: &Path, depth_left: usize, limit: usize, found: &mut Vec<Candidate>) {
    // A folder that only root may read is simply not a source.
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        if found.len() >= limit {
            return;
        }
        // Names that need quoting, or files that a package manager rewrites, would make tests depend on the machine.
        let rewritten = path.extension().is_some_and(|extension| extension == "cache");
        let usable = !rewritten && path.to_str().is_some_and(|text| !text.contains(['\n', '\\', ':']));
        if metadata.is_dir() && depth_left > 0 {
            collect(&path, depth_left - 1, limit, found);
        } else if metadata.is_file() && metadata.permissions().mode() & 0o444 == 0o444 && usable {
            found.push(Candidate { path, bytes: metadata.len() });
        }
    }
}

/// Changes a file as a rebuild does: a few bytes here and there, and a piece inserted that moves the rest.
fn change(content: &mut Vec<u8>, rng: &mut SplitMix64) {
    for _ in 0..=content.len() / 50_000 {
        if !content.is_empty() {
            let position = rng.below(content.len());
            content[position] = content[position].wrapping_add(1);
        }
    }
    let position = rng.below(content.len() + 1);
    let mut inserted = String::new();
    for _ in 0..=rng.below(20) {
        write!(inserted, "changed {:x} ", rng.next_u64()).expect("a string takes any text");
    }
    content.splice(position..position, inserted.into_bytes());
}

/// Makes a picture in which all pixels have the same colour (PNG, 8 bits for each of red, green and blue).
fn png_of_one_colour(colour: [u8; 3]) -> Vec<u8> {
    let side = [0, 0, 0, ICON_PIXELS];
    let header = [&side[..], &side, &[8, 2, 0, 0, 0]].concat();
    let row = [&[0][..], &colour.repeat(ICON_PIXELS.into())].concat();
    let mut pixels = ZlibEncoder::new(Vec::new(), Compression::default());
    pixels.write_all(&row.repeat(ICON_PIXELS.into())).expect("memory takes any bytes");
    let pixels = pixels.finish().expect("memory takes any bytes");
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, data) in [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", Vec::new())] {
        let mut crc = Crc::new();
        crc.update(name);
        crc.update(&data);
        png.extend(u32::try_from(data.len()).expect("a small picture").to_be_bytes());
        png.extend([&name[..], &data, &crc.sum().to_be_bytes()].concat());
    }
    png
}
