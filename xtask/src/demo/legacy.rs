//! The site that was there before: nginx when it is installed, else a server of thirty lines.

use std::{
    ffi::OsString,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
};

use anyhow::{Context, Result};

use super::running::Running;
use crate::tools::with_server_folders;

const PAGE: &str = "<!doctype html><meta charset=utf-8><title>Legacy</title>\n\
    <body style=\"font-family:serif;max-width:40rem;margin:4rem auto\">\n\
    <h1>The site you had before</h1>\n<p>This page comes from the legacy backend, through the edge.\n";

pub(super) enum Legacy {
    Nginx { _process: Running, port: u16 },
    Own { port: u16 },
}

impl Legacy {
    pub(super) fn start(folder: &Path, path: &OsString) -> Result<Legacy> {
        let listener = TcpListener::bind("127.0.0.1:0").context("a port for the legacy backend")?;
        let port = listener.local_addr()?.port();
        let installed = Command::new("nginx")
            .arg("-v")
            .env("PATH", with_server_folders(path))
            .output();
        if !installed.is_ok_and(|output| output.status.success()) {
            thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(answer(stream))));
            return Ok(Legacy::Own { port });
        }
        // nginx cannot take a socket that is bound already.
        drop(listener);
        let folder = folder.join("legacy");
        fs::create_dir_all(folder.join("html"))?;
        fs::write(folder.join("html/index.html"), PAGE)?;
        let configuration = folder.join("nginx.conf");
        let quoted = folder.display();
        fs::write(
            &configuration,
            format!(
                "daemon off; master_process off; pid \"{quoted}/nginx.pid\"; error_log stderr warn;\n\
                 events {{ worker_connections 256; }}\n\
                 http {{ access_log off; client_body_temp_path \"{quoted}/body\"; proxy_temp_path \"{quoted}/proxy\";\n\
                 fastcgi_temp_path \"{quoted}/fastcgi\"; uwsgi_temp_path \"{quoted}/uwsgi\"; scgi_temp_path \"{quoted}/scgi\";\n\
                 types {{ text/html html; }}\n\
                 server {{ listen 127.0.0.1:{port}; root \"{quoted}/html\";\n\
                 location = /healthz {{ return 200 \"ok\\n\"; }}\n\
                 location / {{ try_files $uri /index.html; }} }} }}\n"
            ),
        )?;
        let mut command = Command::new("nginx");
        command
            .env("PATH", with_server_folders(path))
            .arg("-p")
            .arg(&folder)
            .arg("-c")
            .arg(&configuration);
        Ok(Legacy::Nginx {
            _process: Running::start("nginx", &mut command)?,
            port,
        })
    }

    pub(super) fn port(&self) -> u16 {
        match self {
            Legacy::Nginx { port, .. } | Legacy::Own { port } => *port,
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Legacy::Nginx { .. } => "nginx",
            Legacy::Own { .. } => "a server of the demo's own, as nginx is not installed",
        }
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 8192];
    let _ = stream.read(&mut request)?;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\nconnection: close\r\ncontent-length: ";
    stream.write_all(format!("{head}{}\r\n\r\n{PAGE}", PAGE.len()).as_bytes())
}
