module drive-net-smtp

go 1.19
