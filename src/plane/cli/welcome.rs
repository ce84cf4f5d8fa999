//! The first words of a plane that runs.

use std::path::{Path, PathBuf};

use super::RunArgs;
use crate::plane::Plane;

/// What a newcomer needs next.
pub(super) fn welcome(plane: &Plane, args: &RunArgs) -> String {
    let url = public_url(plane, args);
    let certificate = absolute(plane.certificate_path());
    let certificate = certificate.display();
    let data = absolute(&args.data);
    let data = data.display();
    let listen = plane.addr();
    let fingerprint = plane.fingerprint();
    format!(
        "The plane listens on {listen}, for agents and for people.

  data          {data}
  certificate   {certificate}
                SHA-256 {fingerprint}

To connect a cluster, in another terminal:

  1. Make a token for its agent, and one for yourself.

       pipeops-agent plane token create --data {data} --role agent --cluster NAME
       pipeops-agent plane token create --data {data} --role user --all

  2. Start the agent where it can reach the cluster, as `pipeops-agent --config FILE`
     with this in the file:

       pipeops:
         api_url: {url}
         token: ppa_…
         tls:
           ca_file: {certificate}
       agent:
         cluster_name: NAME
       kubernetes:
         # Outside the cluster, with a kubeconfig: whoever has a token of this plane
         # acts as the agent does. Inside, the agent hands its token over instead.
         impersonate_agent: true

  3. Use the cluster.

       kubectl --server {url}/clusters/NAME --token ppu_… \\
         --certificate-authority {certificate} get pods -A

To see what is connected:

       pipeops-agent plane clusters --data {data}

To reach a Service of it by a port here:

       pipeops-agent plane expose tcp 15432 --cluster NAME --service postgres.default:5432 --data {data}

Ctrl-C ends it.
"
    )
}

/// How agents and people reach the plane, as far as it can know.
fn public_url(plane: &Plane, args: &RunArgs) -> String {
    let address = plane.addr();
    let host = match args.names.first() {
        Some(name) if name.contains(':') => format!("[{name}]"),
        Some(name) => name.clone(),
        None if address.ip().is_unspecified() => "localhost".to_owned(),
        None => return format!("https://{address}"),
    };
    format!("https://{host}:{}", address.port())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::GatewayUrl;
    use crate::plane::tests::house::House;

    #[test]
    fn the_first_words_lead_on() {
        let house = House::new();
        let mut args = RunArgs {
            listen: house.config.listen,
            data: house.config.data_dir.clone(),
            tls: None,
            names: Vec::new(),
            gateway: GatewayUrl::SameHost,
            http: ([127, 0, 0, 1], 8088).into(),
            log_level: log::LevelFilter::Info,
        };
        let text = welcome(&house.plane, &args);
        let url = format!("api_url: https://{}\n", house.plane.addr());
        assert!(text.contains(&url) && text.contains(house.plane.fingerprint()));
        args.names = vec!["plane.test".into()];
        let named = format!(
            "https://plane.test:{}/clusters/NAME",
            house.plane.addr().port()
        );
        assert!(welcome(&house.plane, &args).contains(&named));
    }
}
