#!/bin/sh -e
# Makes two repositories, and installs the first version of three packages of which they have the second. They bring what
# needs rights: a program with the set-user-ID bit, another owner, a script that acts as another user, a request to systemd.
mkdir -p /srv/repository /tmp/package && cd /tmp/package
for each in safe:Debian-Security other:Elsewhere postgresql-unsafe:Debian-Security; do
    name=${each%%:*} label=${each#*:}
    mkdir -p "/srv/repository/$label"
    for version in 1 2; do
        rm -rf root && mkdir -p root/DEBIAN root/usr/lib/$name
        printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: Test <test@example.org>\nDescription: test\n' \
            $name $version > root/DEBIAN/control
        cp /bin/true root/usr/lib/$name/program && chmod 4755 root/usr/lib/$name/program
        printf '%s\n' '#!/bin/sh' 'set -e' "chown nobody:nogroup /usr/lib/$name" 'runuser -u nobody -- true' \
            'systemctl daemon-reload' > root/DEBIAN/postinst && chmod 755 root/DEBIAN/postinst
        dpkg-deb --root-owner-group --build root ${name}_$version.deb
    done
    dpkg --install ${name}_1.deb
    cp ${name}_2.deb "/srv/repository/$label"
done
rm -f /etc/apt/sources.list
for label in Debian-Security Elsewhere; do
    cd "/srv/repository/$label"
    for package in *.deb; do
        dpkg-deb --field $package
        echo "Filename: ./$package"
        echo "Size: $(stat -c %s $package)"
        echo "SHA256: $(sha256sum $package | cut -d ' ' -f 1)"
        echo
    done > Packages
    {
        printf '%s\n' 'Origin: Debian' "Label: $label" 'Suite: any'
        echo "Date: $(LC_ALL=C date -u '+%a, %d %b %Y %H:%M:%S UTC')"; echo "SHA256:"
        echo " $(sha256sum Packages | cut -d ' ' -f 1) $(stat -c %s Packages) Packages"
    } > Release
    echo "deb [trusted=yes] file:/srv/repository/$label ./" >> /etc/apt/sources.list.d/test.list
done
