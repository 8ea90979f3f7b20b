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
            for visit in job.visits(connection) {
                let mut watch = job.start();
                if job.way == "new" {
                    is_accepted(builder.send(&mail));
                    if visit.unmeasured > 0 {
                        watch = job.start();
                    }
                    watch.stop();
                    continue;
                }
                let mut client = builder.connect().unwrap();
                for _ in 0..visit.unmeasured {
                    is_accepted(client.send(&mail));
                    watch = job.start();
                }
                let mails = (visit.unmeasured..visit.messages).map(|_| &mail);
                match job.way.as_str() {
                    "send" => mails.for_each(|mail| is_accepted(client.send(mail))),
                    _ => client.send_all(mails).for_each(|(_, result)| is_accepted(result)),
                }
                watch.stop();
                client.quit().unwrap();
            }
        });
    });
}
