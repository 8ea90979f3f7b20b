#!/usr/bin/env python3
"""Queues a mail in the transaction of an order: both are there, or neither is.

Usage: enqueue.py DATABASE SENDER RECIPIENT ORDER   (needs psycopg2; Debian: python3-psycopg2)
"""

import email.message
import sys

import psycopg2
import psycopg2.extras


def main(database, sender, recipient, order):
    message = email.message.EmailMessage()
    message["From"] = sender
    message["To"] = recipient
    message["Subject"] = f"Your order {order}"
    message.set_content("Thank you! We will send it tomorrow. Grüße\n")
    connection = psycopg2.connect(database)
    with connection, connection.cursor() as cursor:  # commits at the end, or rolls back
        # … insert into orders …
        cursor.execute(
            "select id, is_new from postino_enqueue(sender => %s, recipients => %s, content => %s, dedup => %s, options => %s)",
            (
                sender,
                [recipient],
                message.as_bytes(),
                f"order {order}",  # the same order twice is one mail
                psycopg2.extras.Json(
                    {"options": [{"envelope_id": order}], "recipient_options": [[{"notify": {"failure": True}}]]}
                ),
            ),
        )
        mail, is_new = cursor.fetchone()
    connection.close()
    print(f"mail {mail}" if is_new else f"mail {mail} was queued before")


if __name__ == "__main__":
    main(*sys.argv[1:])
