// Ways: conn, new (a connection for each message). See ../../peers/src/lib.rs for arguments, environment and output.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/smtp"
	"os"
	"strconv"
	"time"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func or(name, other string) string {
	if value, ok := os.LookupEnv(name); ok {
		return value
	}
	return other
}

func main() {
	way, security, host, port, path := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[6]
	count, err := strconv.Atoi(os.Args[5])
	check(err)
	message, err := os.ReadFile(path)
	check(err)
	sender, recipient := or("PEERS_FROM", "a@example.org"), or("PEERS_TO", "b@example.net")
	user, login := os.LookupEnv("PEERS_USER")
	_, warm := os.LookupEnv("PEERS_WARM")

	begun := time.Now()
	var config *tls.Config
	if security != "plain" {
		ca, err := os.ReadFile(os.Getenv("PEERS_CA"))
		check(err)
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca)
		config = &tls.Config{ServerName: "localhost", RootCAs: roots}
	}

	connect := func() *smtp.Client {
		address := net.JoinHostPort(host, port)
		var client *smtp.Client
		if security == "tls" {
			stream, err := tls.Dial("tcp", address, config)
			check(err)
			client, err = smtp.NewClient(stream, host)
			check(err)
		} else {
			client, err = smtp.Dial(address)
			check(err)
		}
		if security == "starttls" {
			check(client.StartTLS(config))
		}
		if login {
			check(client.Auth(smtp.PlainAuth("", user, os.Getenv("PEERS_PASSWORD"), host)))
		}
		return client
	}
	send := func(client *smtp.Client) {
		check(client.Mail(sender))
		check(client.Rcpt(recipient))
		data, err := client.Data()
		check(err)
		_, err = data.Write(message)
		check(err)
		check(data.Close())
	}

	start := func() time.Time {
		if warm {
			time.Sleep(50 * time.Millisecond)
		}
		return time.Now()
	}

	// Each connection: how many messages it carries, and how many of them, with what precedes them, are not measured.
	type visit struct{ messages, unmeasured int }
	first := 0
	if warm {
		first = 1
	}
	visits := []visit{{first + count, first}}
	if way == "new" {
		visits = nil
		if warm {
			visits = append(visits, visit{1, 1})
		}
		for n := 0; n < count; n++ {
			visits = append(visits, visit{1, 0})
		}
	}
	var spent time.Duration
	for _, visit := range visits {
		watch := start()
		client := connect()
		for n := 0; n < visit.messages; n++ {
			send(client)
			if n < visit.unmeasured {
				watch = start()
			}
		}
		spent += time.Since(watch)
		check(client.Quit())
	}
	if !warm {
		spent = time.Since(begun)
	}
	fmt.Printf("{\"seconds\":%.6f,\"messages\":%d}\n", spent.Seconds(), count)
}
