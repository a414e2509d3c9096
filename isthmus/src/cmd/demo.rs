//! `isthmus demo`: a mesh of clusters in one process tree, without root, Docker or Kubernetes.

use crate::demo::Demo;
use crate::demo::scenes::Scene;
use crate::exit::Exit;
use crate::manifest;
use crate::once;
use crate::out;
use anyhow::Context as _;
use clap::ValueEnum as _;
use mesh_runtime::terminate_signal;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Instant;

/// Arguments of `isthmus demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many clusters.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=8))]
    clusters: u8,
    /// Play a scene step by step, and end; on a terminal, Enter leads to the next step.
    #[arg(long, value_name = "SCENE", value_enum)]
    scene: Option<Scene>,
    /// Play all scenes without a pause, check each, and end; exit code 1 if anything is not as it must be.
    #[arg(long, conflicts_with = "scene")]
    check: bool,
    /// Listen on loopback from this port on [default: wherever there is room].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..))]
    first_port: Option<u16>,
    /// A file with objects to apply in every cluster, before the demo says that it is ready; may be repeated.
    #[arg(long, value_name = "FILE")]
    manifest: Vec<PathBuf>,
}

impl Args {
    /// Runs until Ctrl-C, or to the end of the scenes that were asked for.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let began = Instant::now();
        let objects = manifest::read(&self.manifest)?;
        // It is the main thread that starts the daemons, and they end with it.
        let played = once::run(async {
            let mut stop = std::pin::pin!(terminate_signal());
            tokio::select! {
                biased;
                () = &mut stop => Ok(()),
                started = Box::pin(self.start(began, &objects)) => {
                    let mut demo = started?;
                    tokio::select! {
                        biased;
                        () = &mut stop => {
                            demo.observer.tell(false);
                            out::print("\nStopping all of it …")
                        }
                        played = Box::pin(self.play(&mut demo)) => played,
                    }
                }
            }
        })?;
        played.map(|()| Exit::Done)
    }

    async fn start(&self, began: Instant, objects: &[manifest::Object]) -> anyhow::Result<Demo> {
        out::print(format_args!("Starting {} clusters on this machine …\n", self.clusters))?;
        let demo = Demo::start(usize::from(self.clusters), self.first_port, began).await?;
        for cluster in &demo.clusters {
            manifest::apply(cluster.api()?, objects)
                .await
                .with_context(|| format!("cluster {}", cluster.name))?;
        }
        demo.show().await?;
        out::print(format_args!("\nReady {:.1} s after the start.", demo.began.elapsed().as_secs_f64()))?;
        Ok(demo)
    }

    async fn play(&self, demo: &mut Demo) -> anyhow::Result<()> {
        let scenes = match self.scene {
            Some(scene) => vec![scene],
            None if self.check => Scene::value_variants().to_vec(),
            None => {
                demo.show_tries()?;
                demo.observer.tell(true);
                return Err(demo.ends().await);
            }
        };
        demo.observer.tell(true);
        for scene in &scenes {
            let name = scene.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            out::print(format_args!("\nScene: {name}"))?;
            let paced = !self.check && std::io::stdin().is_terminal();
            scene.play(demo, paced).await.with_context(|| format!("scene {name}"))?;
        }
        demo.observer.tell(false);
        let count = scenes.len();
        let plural = if count == 1 { "" } else { "s" };
        out::print(format_args!("\n{count} scene{plural} played, all as it must be."))
    }
}
