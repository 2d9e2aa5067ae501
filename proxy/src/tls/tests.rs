use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::l4::stream::Stream;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ED25519};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion, version};
use selvedge_schema::{CertificateFiles, TlsVersion};
use tokio::net::{TcpListener, TcpStream};

use super::certificate::CertificateError;
use super::self_signed::self_signed;
use super::*;

/// A certificate authority, and the folder its certificates are written to.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        install_crypto_provider();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn files(&self, stem: &str) -> CertificateFiles {
        CertificateFiles {
            cert: self.path(&format!("{stem}.pem")),
            key: self.path(&format!("{stem}.key")),
        }
    }

    /// Writes `STEM.pem` (chain with the authority) and `STEM.key`.
    fn issue(&self, stem: &str, names: &[&str], key: &KeyPair) -> CertificateFiles {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names)
            .unwrap()
            .signed_by(key, &self.issuer)
            .unwrap();
        let files = self.files(stem);
        fs::write(&files.cert, certificate.pem() + &self.pem).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    fn settings(&self, certificates: Vec<CertificateFiles>) -> Tls {
        Tls {
            certificates,
            self_signed: vec![],
            min_version: TlsVersion::Tls12,
        }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap())
            .unwrap();
        roots
    }

    fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let builder = ClientConfig::builder_with_protocol_versions(versions);
        let mut client = builder.with_root_certificates(self.roots()).with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        client
    }
}

struct Handshake {
    leaf: CertificateDer<'static>,
    version: ProtocolVersion,
    alpn: Vec<u8>,
}

/// One real handshake over TCP through pingora's acceptor. The error is the client's.
async fn handshake(store: &Arc<CertificateStore>, client: ClientConfig, name: &str) -> std::io::Result<Handshake> {
    let acceptor: Acceptor = tls_settings(store.clone()).build();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        acceptor.tls_handshake(Stream::from(stream)).await.is_ok()
    });
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connected = connector.connect(name, TcpStream::connect(address).await?).await;
    let accepted = server.await.unwrap();
    let stream = connected?;
    assert!(accepted);
    let (_, connection) = stream.get_ref();
    Ok(Handshake {
        leaf: connection.peer_certificates().unwrap()[0].clone().into_owned(),
        version: connection.protocol_version().unwrap(),
        alpn: connection.alpn_protocol().unwrap_or_default().to_vec(),
    })
}

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS12, &version::TLS13];

fn leaf_of(files: &CertificateFiles) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(&files.cert).unwrap()
}

#[tokio::test]
async fn the_name_chooses_the_certificate() {
    let authority = Authority::new();
    let key = || KeyPair::generate().unwrap();
    let default = authority.issue("default", &["default.test"], &key());
    let exact = authority.issue("exact", &["a.site.test", "b.site.test"], &key());
    let wildcard = authority.issue("wildcard", &["*.site.test"], &key());
    let all = vec![default.clone(), exact.clone(), wildcard.clone()];
    let store = CertificateStore::open(&authority.settings(all), authority.folder.path()).unwrap();

    for (name, expected) in [
        ("default.test", &default),
        ("a.site.test", &exact),
        ("B.Site.Test", &exact),
        ("c.site.test", &wildcard),
    ] {
        let seen = handshake(&store, authority.client(BOTH), name).await.unwrap();
        assert_eq!(seen.leaf, leaf_of(expected), "{name}");
        assert_eq!(
            (seen.version, seen.alpn.as_slice()),
            (ProtocolVersion::TLSv1_3, &b"h2"[..]),
            "{name}"
        );
    }
    // A wildcard stands for one label; unknown names and no name at all get the first certificate, which the client
    // then refuses by name.
    for name in ["x.y.site.test", "site.test", "127.0.0.1"] {
        let error = handshake(&store, authority.client(BOTH), name)
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("not valid for name") && error.contains("default.test"),
            "{name}: {error}"
        );
    }
}

#[tokio::test]
async fn a_client_gets_a_key_it_can_verify() {
    let authority = Authority::new();
    let ed25519 = authority.issue("ed", &["site.test"], &KeyPair::generate_for(&PKCS_ED25519).unwrap());
    let p256 = authority.issue("p256", &["site.test"], &KeyPair::generate().unwrap());
    let store = CertificateStore::open(
        &authority.settings(vec![ed25519.clone(), p256.clone()]),
        authority.folder.path(),
    );
    let store = store.unwrap();
    let seen = handshake(&store, authority.client(BOTH), "site.test").await.unwrap();
    assert_eq!(seen.leaf, leaf_of(&ed25519));
    // What a client without Ed25519 offers.
    let schemes = [
        rustls::SignatureScheme::ECDSA_NISTP256_SHA256,
        rustls::SignatureScheme::RSA_PSS_SHA256,
    ];
    assert_eq!(store.chosen_file("site.test", &schemes), p256.cert);
}

#[tokio::test]
async fn the_least_version_is_kept() {
    let authority = Authority::new();
    let files = authority.issue("site", &["site.test"], &KeyPair::generate().unwrap());
    let mut settings = authority.settings(vec![files]);
    let store = CertificateStore::open(&settings, authority.folder.path()).unwrap();
    let old = || authority.client(&[&version::TLS12]);
    let seen = handshake(&store, old(), "site.test").await.unwrap();
    assert_eq!(seen.version, ProtocolVersion::TLSv1_2);

    settings.min_version = TlsVersion::Tls13;
    store.replace(&settings).unwrap();
    assert!(handshake(&store, old(), "site.test").await.is_err());
    let seen = handshake(&store, authority.client(BOTH), "site.test").await.unwrap();
    assert_eq!(seen.version, ProtocolVersion::TLSv1_3);
}

#[test]
fn a_guarded_key_signs_only_for_tls13() {
    let authority = Authority::new();
    let files = authority.issue("site", &["site.test"], &KeyPair::generate().unwrap());
    let certificate = certificate::Certificate::load(&files).unwrap();
    let signer = certificate
        .key_tls13
        .key
        .choose_scheme(&[rustls::SignatureScheme::ECDSA_NISTP256_SHA256])
        .unwrap();
    let check = |message: &[u8], expected: bool| assert_eq!(signer.sign(message).is_ok(), expected, "{message:?}");
    let tls13 = [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify\0", &[7; 32]].concat();
    check(&tls13, true);
    check(&tls13[1..], false);
    check(&[7; 64 + 40], false);
    check(&[&[b' '; 64][..], &[7; 40]].concat(), false);
    check(b"", false);
}

/// Every way in which files can be unusable: what is written, and what the error says.
#[test]
fn unusable_files_are_named() {
    let authority = Authority::new();
    let key = KeyPair::generate().unwrap();
    let good = authority.issue("site", &["site.test"], &key);
    let chain = fs::read_to_string(&good.cert).unwrap();
    let leaf = chain.strip_suffix(&authority.pem).unwrap();
    let key = key.serialize_pem();
    let other_key = KeyPair::generate().unwrap().serialize_pem();
    let mangled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let check = |cert: Option<&str>, key: Option<&str>, expected: &str| {
        let files = authority.files("bad");
        for (path, text) in [(&files.cert, cert), (&files.key, key)] {
            let _ = fs::remove_file(path);
            if let Some(text) = text {
                fs::write(path, text).unwrap();
            }
        }
        let settings = authority.settings(vec![good.clone(), files]);
        let error = CertificateStore::open(&settings, authority.folder.path()).unwrap_err();
        let text = error
            .to_string()
            .replace(&format!("{}/", authority.folder.path().display()), "");
        assert_eq!(text, expected);
    };
    check(None, Some(&key), "cannot read bad.pem");
    check(Some(leaf), None, "cannot read bad.key");
    check(Some(""), Some(&key), "bad.pem has no certificate in PEM form");
    check(Some(&key), Some(&key), "bad.pem has no certificate in PEM form");
    let no_key = "bad.key has no private key in PEM form (PKCS#8, PKCS#1 or SEC1, not encrypted)";
    check(Some(leaf), Some(leaf), no_key);
    check(Some(leaf), Some(encrypted), no_key);
    check(
        Some(mangled),
        Some(&key),
        "certificate 1 in bad.pem is not an X.509 certificate",
    );
    check(
        Some(leaf),
        Some(&other_key),
        "the key in bad.key is not the key of the certificate in bad.pem",
    );
    let order = "is not the issuer of the one before it; the chain begins with the site's own certificate";
    check(
        Some(&(authority.pem.clone() + leaf)),
        Some(&key),
        &format!("certificate 2 in bad.pem {order}"),
    );
    let none = CertificateStore::open(&authority.settings(vec![]), authority.folder.path()).unwrap_err();
    assert_eq!(none.to_string(), "the listener has no certificate");
}

#[tokio::test]
async fn renewed_files_are_served_and_broken_ones_are_not() {
    let authority = Authority::new();
    let first_key = KeyPair::generate().unwrap();
    let files = authority.issue("site", &["site.test"], &first_key);
    let settings = authority.settings(vec![files.clone()]);
    let store = CertificateStore::open(&settings, authority.folder.path()).unwrap();
    let first = leaf_of(&files);
    let served = || async {
        handshake(&store, authority.client(BOTH), "site.test")
            .await
            .unwrap()
            .leaf
    };
    assert!(!store.reload_if_changed().unwrap());

    // A renewal between its two writes: the new certificate with the old key.
    let second_key = KeyPair::generate().unwrap();
    authority.issue("site", &["site.test"], &second_key);
    fs::write(&files.key, first_key.serialize_pem()).unwrap();
    let error = store.reload_if_changed().unwrap_err();
    assert!(
        matches!(error, TlsError::Certificate(CertificateError::Mismatch { .. })),
        "{error}"
    );
    assert!(
        !store.reload_if_changed().unwrap(),
        "the same broken files are reported once"
    );
    assert_eq!(served().await, first);

    fs::write(&files.key, second_key.serialize_pem()).unwrap();
    assert!(store.reload_if_changed().unwrap());
    let second = served().await;
    assert!(second != first && second == leaf_of(&files));

    fs::remove_file(&files.cert).unwrap();
    assert!(store.reload_if_changed().is_err());
    assert_eq!(served().await, second);

    let elsewhere = authority.files("missing");
    assert!(store.replace(&authority.settings(vec![elsewhere])).is_err());
    assert_eq!(served().await, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watch_notices_and_staging_waits() {
    let authority = Authority::new();
    let files = authority.issue("site", &["site.test"], &KeyPair::generate().unwrap());
    let listener = |tls| Listener {
        address: "127.0.0.1:0".parse().unwrap(),
        tls,
    };
    let listeners = [listener(None), listener(Some(authority.settings(vec![files.clone()])))];
    let stores = CertificateStores::open(&listeners, authority.folder.path()).unwrap();
    assert!(stores.get(0).is_none());
    let store = stores.get(1).unwrap();
    let first = store.expiries();

    let other = authority.issue("other", &["other.test"], &KeyPair::generate().unwrap());
    let staged = stores
        .stage(&[listener(None), listener(Some(authority.settings(vec![other])))])
        .unwrap();
    assert_eq!(store.expiries(), first);
    staged.into_iter().for_each(StagedCertificates::commit);
    assert_eq!(store.expiries()[0].name, "other.test");

    let _watch = stores.watch(&Handle::current());
    authority.issue("other", &["renewed.test"], &KeyPair::generate().unwrap());
    let noticed = async {
        while stores.expiries()[0].name != "renewed.test" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), noticed)
        .await
        .expect("the renewal is noticed");
}

#[tokio::test]
async fn self_signed_names_are_served_and_renewed() {
    install_crypto_provider();
    let data = tempfile::tempdir().unwrap();
    let settings = Tls {
        certificates: vec![],
        self_signed: vec!["localhost".into()],
        min_version: TlsVersion::Tls12,
    };
    let store = CertificateStore::open(&settings, data.path()).unwrap();
    let folder = data.path().join("self-signed");
    let files = self_signed(&settings.self_signed, &folder).unwrap();
    let trusting = |path: &Path| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(path).unwrap()).unwrap();
        ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth()
    };
    for name in ["localhost", "127.0.0.1", "::1"] {
        handshake(&store, trusting(&files.cert), name).await.unwrap();
    }

    // Close to its end, and loaded that way: the next look renews it.
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(settings.self_signed.clone()).unwrap();
    params.not_after = (SystemTime::now() + Duration::from_secs(60)).into();
    fs::write(&files.cert, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    assert!(store.reload_if_changed().unwrap());
    assert!(store.expiries()[0].not_after > SystemTime::now() + Duration::from_secs(300 * 24 * 60 * 60));
}
