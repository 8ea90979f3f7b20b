#!/bin/sh
# ./make.sh: recreates all certificates and keys in this folder (openssl 3). Their names say what is wrong with them.
# Only the certificate of the authority is kept, not its key. Valid certificates are valid until 2045.
# shellcheck disable=SC2086  # dates are words
set -e
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
long="-startdate 20250101000000Z -enddate 20450101000000Z"
past="-startdate 20250101000000Z -enddate 20250201000000Z"
future="-startdate 21980101000000Z -enddate 21990101000000Z"
here="subjectAltName=DNS:localhost,IP:127.0.0.1,IP:0:0:0:0:0:0:0:1"

# key NAME EXTENSION: makes a key and a certificate request
key() {
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=postino test $1" -addext "$2" \
        -keyout "$work/$1.key" -out "$work/$1.csr" 2>/dev/null
}

# bare NAME: makes a key and a certificate request with only a common name
bare() {
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=localhost" \
        -keyout "$work/$1.key" -out "$work/$1.csr" 2>/dev/null
}

# sign NAME HOW…
sign() {
    name=$1
    shift
    openssl ca -batch -notext -config "$work/cnf" -in "$work/$name.csr" -out "$work/$name.pem" "$@" 2>/dev/null
}

# issue NAME ISSUER DATES…
issue() {
    name=$1 issuer=$2
    shift 2
    sign "$name" -cert "$work/$issuer.pem" -keyfile "$work/$issuer.key" "$@"
    cp "$work/$name.pem" "$work/$name.key" .
}

# leaf NAME ISSUER EXTENSION DATES…
leaf() {
    key "$1" "$3"
    name=$1 issuer=$2
    shift 3
    issue "$name" "$issuer" "$@"
}

: >"$work/index"
cat >"$work/cnf" <<END
[ca]
default_ca = d
[d]
database = $work/index
new_certs_dir = $work
rand_serial = yes
unique_subject = no
default_md = sha256
policy = p
copy_extensions = copy
[p]
commonName = supplied
END

for authority in ca other-ca; do
    key $authority basicConstraints=critical,CA:TRUE
    sign $authority -selfsign -keyfile "$work/$authority.key" $long
done
cp "$work/ca.pem" .

# An authority with the name of `ca` and another key.
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=postino test ca" \
    -addext basicConstraints=critical,CA:TRUE -keyout "$work/ca-with-another-key.key" \
    -out "$work/ca-with-another-key.csr" 2>/dev/null
sign ca-with-another-key -selfsign -keyfile "$work/ca-with-another-key.key" $long
cp "$work/ca-with-another-key.pem" .

leaf good ca "$here" $long
leaf other-host ca subjectAltName=DNS:mail.example.org $long
leaf expired ca "$here" $past
leaf unknown-issuer other-ca "$here" $long
leaf not-yet-valid ca "$here" $future
leaf wildcard ca subjectAltName=DNS:*.example.org $long
leaf name-only ca subjectAltName=DNS:localhost $long
leaf address-as-name ca subjectAltName=DNS:127.0.0.1 $long
leaf address-only ca subjectAltName=IP:127.0.0.1 $long
leaf wildcard-of-all ca 'subjectAltName=DNS:*' $long
leaf a-label ca subjectAltName=DNS:xn--bcher-kva.test $long
bare common-name-only
issue common-name-only ca $long
key for-clients "$here"
printf 'extendedKeyUsage=clientAuth\n%s\n' "$here" >"$work/purpose"
issue for-clients ca -extfile "$work/purpose" $long

# Issued by an intermediate authority: one file with its certificate, and one without.
key intermediate basicConstraints=critical,CA:TRUE
sign intermediate -cert "$work/ca.pem" -keyfile "$work/ca.key" $long
leaf without-issuer intermediate "$here" $long
cat "$work/without-issuer.pem" "$work/intermediate.pem" >with-issuer.pem
cp without-issuer.key with-issuer.key

key self-signed "$here"
sign self-signed -selfsign -keyfile "$work/self-signed.key" $long
openssl req -new -newkey ed25519 -nodes -subj "/CN=postino test ed25519" -addext "$here" \
    -keyout "$work/ed25519.key" -out "$work/ed25519.csr" 2>/dev/null
sign ed25519 -selfsign -keyfile "$work/ed25519.key" $long
cp "$work/self-signed.pem" "$work/self-signed.key" "$work/ed25519.pem" "$work/ed25519.key" .

# For clients: one issued by the authority, also in other formats, and one from an unknown authority.
leaf client ca subjectAltName=email:alice@example.org $long
leaf unknown-client other-ca subjectAltName=email:alice@example.org $long
openssl pkcs12 -export -in client.pem -inkey client.key -passout pass:secret -out client.p12
openssl pkey -in client.key -traditional -out client.sec1.key
openssl pkcs8 -topk8 -in client.key -passout pass:secret -out client.encrypted.key
openssl x509 -in ca.pem -outform DER -out ca.der
chmod 644 ./*.key client.p12
