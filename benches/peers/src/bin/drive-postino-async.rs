//! The same ways as `drive-postino`, with `postino::aio`.

use peers::{
    Job, builder,
    ours::{is_accepted, mail},
};

async fn connection(job: Job, builder: postino::aio::Builder, connection: usize) {
    let mail = mail(&job);
    for visit in job.visits(connection) {
        let mut watch = job.start();
        if job.way == "new" {
            is_accepted(builder.send(&mail).await);
            if visit.unmeasured > 0 {
                watch = job.start();
            }
            watch.stop();
            continue;
        }
        let mut client = builder.connect().await.unwrap();
        for _ in 0..visit.unmeasured {
            is_accepted(client.send(&mail).await);
            watch = job.start();
        }
        let mails = (visit.unmeasured..visit.messages).map(|_| &mail);
        if job.way == "send" {
            for mail in mails {
                is_accepted(client.send(mail).await);
            }
        } else {
            let mut batch = client.send_all(mails);
            while let Some((_, result)) = batch.next().await {
                is_accepted(result);
            }
        }
        watch.stop();
        client.quit().await.unwrap();
    }
}

fn main() {
    Job::from_args().run(|job| {
        let builder = builder!(postino::aio::Client, job);
        let one = |n| connection(job.clone(), builder.clone(), n);
        if job.connections == 1 {
            return smol::block_on(one(0));
        }
        let tasks: Vec<_> = (0..job.connections).map(|n| smol::spawn(one(n))).collect();
        smol::block_on(async {
            for task in tasks {
                task.await;
            }
        });
    });
}
