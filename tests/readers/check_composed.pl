# check_composed.pl FOLDER: does the same as check_composed.py, which explains it, with Email::MIME.
use strict;
use warnings;
use Email::MIME;
use Email::MIME::Header::AddressList;

my $folder = shift or die "usage: check_composed.pl FOLDER\n";
my @paths = sort glob "$folder/*.eml" or die "there is no message in $folder\n";
my $differences = 0;
for my $path (@paths) {
    my (%expected, %found);
    (my $manifest = $path) =~ s/\.eml$/.txt/;
    for my $line (split /\n/, slurp($manifest)) {
        my ($word, @values) = split / /, $line, -1;
        push @{ $expected{$word} }, join '/', @values;
    }
    my $message = Email::MIME->new(slurp($path));
    my $subject = $message->header_str('Subject');
    push @{ $found{subject} }, hex_of($subject) if defined $subject;
    for my $word ('from', 'to') {
        my @addresses = $message->header_as_obj(ucfirst $word)->addresses;
        $found{$word} = [ map { hex_of($_->phrase // '') . '/' . hex_of($_->address) } @addresses ];
    }
    $message->walk_parts(sub {
        my ($part) = @_;
        return if $part->subparts;
        my ($type) = split /\s*;/, $part->content_type;
        my $body = unpack 'H*', $part->body;
        # Email::MIME takes an encoded LF in quoted-printable (=0A) for the end of a line, and returns CRLF.
        if (lc($part->header('Content-Transfer-Encoding') // '') eq 'quoted-printable') {
            my $expected = \$expected{part}[@{ $found{part} // [] }];
            $_ = lf_only($_) for $body, $$expected;
        }
        push @{ $found{part} }, join '/', hex_of($type), hex_of($part->filename // ''), $body;
    });
    for my $word ('subject', 'from', 'to', 'part') {
        my ($found, $expected) = map { join ' ', @{ $_->{$word} // [] } } \%found, \%expected;
        next if $found eq $expected;
        $differences++;
        print "$path: $word is $found, not $expected\n";
    }
}
printf "%d messages, %d differences\n", scalar @paths, $differences;
exit($differences > 0);

sub slurp {
    my ($path) = @_;
    open my $file, '<:raw', $path or die "$path: $!\n";
    local $/;
    return scalar <$file>;
}

# In hexadecimal, after the last slash; CRLF becomes LF.
sub lf_only {
    my ($text) = @_;
    my ($before, $content) = $text =~ m{^(.*/)?([^/]*)$};
    my $bytes = pack 'H*', $content;
    $bytes =~ s/\r\n/\n/g;
    return ($before // '') . unpack 'H*', $bytes;
}

sub hex_of {
    my ($text) = @_;
    utf8::encode($text);
    return unpack 'H*', $text;
}
