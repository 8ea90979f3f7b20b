//! The same ways as `drive-postino`, with `postino::aio`.

use peers::{
    Job, builder,
    ours::{is_accepted, mail},
};

async fn connection(job: Job, builder: postino::aio::Builder, connection: usize) {
    let (mail, count) = (mail(&job), job.share(connection));
    if job.way == "new" {
        for _ in 0..count {
            is_accepted(builder.send(&mail).await);
        }
        return;
    }
    let mut client = builder.connect().await.unwrap();
    if job.way == "send" {
        for _ in 0..count {
            is_accepted(client.send(&mail).await);
        }
    } else {
        let mut batch = client.send_all((0..count).map(|_| &mail));
        while let Some((_, result)) = batch.next().await {
            is_accepted(result);
        }
    }
    client.quit().await.unwrap();
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
