#!/bin/sh
# Makes all certificates and keys of this folder anew: ./make.sh (openssl 3). The names say what is wrong with each.
# Only the authority's certificate is kept, not its key.
set -e
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
long="-startdate 20250101000000Z -enddate 20450101000000Z"
past="-startdate 20250101000000Z -enddate 20250201000000Z"
here="subjectAltName=DNS:localhost,IP:127.0.0.1,IP:0:0:0:0:0:0:0:1"

# key NAME EXTENSION: a key, and a request for a certificate
key() {
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=postino test $1" -addext "$2" \
        -keyout "$work/$1.key" -out "$work/$1.csr" 2>/dev/null
}

# sign NAME HOW…
sign() {
    name=$1
    shift
    openssl ca -batch -notext -config "$work/cnf" -in "$work/$name.csr" -out "$work/$name.pem" "$@" 2>/dev/null
}

# leaf NAME ISSUER EXTENSION DATES…
leaf() {
    key "$1" "$3"
    name=$1 issuer=$2
    shift 3
    sign "$name" -cert "$work/$issuer.pem" -keyfile "$work/$issuer.key" "$@"
    cp "$work/$name.pem" "$work/$name.key" .
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

leaf good ca "$here" $long
leaf other-host ca subjectAltName=DNS:mail.example.org $long
leaf expired ca "$here" $past
leaf unknown-issuer other-ca "$here" $long
key self-signed "$here"
sign self-signed -selfsign -keyfile "$work/self-signed.key" $long
cp "$work/self-signed.pem" "$work/self-signed.key" .
chmod 644 ./*.key
