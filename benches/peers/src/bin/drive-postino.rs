//! Ways: `batch`, `chunk` (a batch with BDAT), `send` (one by one), `new` (a connection for each message), `file` (a
//! batch that streams the file).

use peers::{
    Job, builder,
    ours::{is_accepted, mail},
};

fn main() {
    Job::from_args().run(|job| {
        let (builder, mail) = (builder!(postino::Client, job), mail(job));
        job.threads(|connection| {
            let count = job.share(connection);
            if job.way == "new" {
                (0..count).for_each(|_| is_accepted(builder.send(&mail)));
                return;
            }
            let mut client = builder.connect().unwrap();
            match job.way.as_str() {
                "send" => (0..count).for_each(|_| is_accepted(client.send(&mail))),
                _ => client.send_all((0..count).map(|_| &mail)).for_each(|(_, result)| is_accepted(result)),
            }
            client.quit().unwrap();
        });
    });
}
