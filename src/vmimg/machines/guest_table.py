"""The table of guest systems: who calls which system what. Data only; `guests` looks things up in it.

One row a system. The columns:

    id          the short id of libosinfo; "rhel9-unknown" is libosinfo's way to say "some RHEL 9".
                Where it has no such id for a family, one is made the same way ("ubuntu-unknown")
    title       its name for people
    VMware      ids of the vSphere API; that of a .vmx follows from them
    VirtualBox  ids; _64 and _arm64 at the end tell the architecture
    CIM         CIM_OperatingSystem.OSType of 32 and 64 bits
    Parallels   number of the version (its first byte is the family)
    Proxmox     ostype
    oVirt       osinfo ids of 32 and 64 bits

"~" before an id: written for want of a better one; who reads it finds the row that has it plainly.
"<" before an id: only read. "-": nothing. Sources: osinfo-db; VMware vSphere API,
VirtualMachineGuestOsIdentifier; VirtualBox Global.cpp (sg_aOSTypes) of 4.3 to 7.1; DMTF CIM schema, CIM_OperatingSystem; Parallels SDK
PrlOses.h; Proxmox qm.conf(5); oVirt osinfo-defaults.properties. Imports nothing.
"""

# ruff: noqa: E501  (a row is a line)

from __future__ import annotations

from typing import Final

__all__ = ["TABLE"]

# fmt: off
TABLE: Final = """
win11 | Windows 11 | windows11_64Guest | Windows11_64 Windows11_arm64 | ~120 | 0813 | win11 | windows_11
win10 | Windows 10 | windows9Guest windows9_64Guest | Windows10 Windows10_64 | 119 120 | 080F | win10 | windows_10 windows_10x64
win8.1 | Windows 8.1 | ~windows8Guest ~windows8_64Guest | Windows81 Windows81_64 | 117 118 | 080E | ~win8 | ~windows_8 ~windows_8x64
win8 | Windows 8 | windows8Guest windows8_64Guest | Windows8 Windows8_64 | 113 114 | 080C | win8 | windows_8 windows_8x64
win7 | Windows 7 | windows7Guest windows7_64Guest | Windows7 Windows7_64 | 105 | 080B | win7 | windows_7 windows_7x64
winvista | Windows Vista | winVistaGuest winVista64Guest | WindowsVista WindowsVista_64 | 73 74 | 0809 | wvista | -
winxp | Windows XP | winXPProGuest winXPPro64Guest <winXPHomeGuest | WindowsXP WindowsXP_64 | 67 71 | 0807 | wxp | windows_xp
win2k | Windows 2000 | win2000ProGuest <win2000ServGuest <win2000AdvServGuest | Windows2000 | 58 | 0806 | w2k | -
win2k25 | Windows Server 2025 | windows2022srvNext_64Guest <windows2025srv_64Guest | Windows2025_64 | ~115 | ~0812 | ~win11 | windows_2025
win2k22 | Windows Server 2022 | windows2019srvNext_64Guest | Windows2022_64 | ~115 | 0812 | ~win11 | windows_2022
win2k19 | Windows Server 2019 | windows2019srv_64Guest | Windows2019_64 | ~115 | 0811 | ~win10 | windows_2019x64
win2k16 | Windows Server 2016 | windows9Server64Guest | Windows2016_64 | 116 | 0810 | ~win10 | windows_2016x64
win2k12r2 | Windows Server 2012 R2 | ~windows8Server64Guest | ~Windows2012_64 | 115 | ~080D | ~win8 | windows_2012R2x64
win2k12 | Windows Server 2012 | windows8Server64Guest | Windows2012_64 | 112 | 080D | ~win8 | windows_2012x64
win2k8r2 | Windows Server 2008 R2 | windows7Server64Guest | ~Windows2008_64 | 103 | ~080A | ~win7 | windows_2008R2x64
win2k8 | Windows Server 2008 | winLonghornGuest winLonghorn64Guest | Windows2008 Windows2008_64 | 76 77 | 080A | w2k8 | windows_2008 windows_2008x64
win2k3r2 | Windows Server 2003 R2 | ~winNetEnterpriseGuest ~winNetEnterprise64Guest | ~Windows2003 ~Windows2003_64 | ~69 ~70 | ~0808 | ~w2k3 | ~windows_2003 ~windows_2003x64
win2k3 | Windows Server 2003 | winNetEnterpriseGuest winNetEnterprise64Guest <winNetStandardGuest <winNetStandard64Guest <winNetWebGuest <winNetBusinessGuest <winNetDatacenterGuest <winNetDatacenter64Guest | Windows2003 Windows2003_64 | 69 70 | 0808 | w2k3 | windows_2003 windows_2003x64
winnt4.0 | Windows NT 4.0 | winNTGuest | WindowsNT4 | 18 | 0805 | ~wxp | -
winme | Windows Millennium | winMeGuest | WindowsMe | 63 | 0804 | ~other | -
win98 | Windows 98 | win98Guest | Windows98 | 17 | 0803 | ~other | -
win95 | Windows 95 | win95Guest | Windows95 | 16 | 0802 | ~other | -
win3.1 | Windows 3.1 | win31Guest | Windows31 | 15 | 0801 | ~other | -
win-unknown | Windows | ~windows9Guest ~windows9_64Guest | WindowsNT WindowsNT_64 <Windows <WindowsNT_arm64 | ~119 ~120 | 08FF | ~win10 | -
debian13 | Debian 13 | ~debian12Guest ~debian12_64Guest <debian13Guest <debian13_64Guest | <Debian13 ~Debian ~Debian_64 <Debian13_64 ~Debian_arm64 <Debian13_arm64 | ~95 ~96 | ~0906 | ~l26 | -
debian12 | Debian 12 | debian12Guest debian12_64Guest | Debian12 Debian12_64 Debian12_arm64 | ~95 ~96 | ~0906 | ~l26 | -
debian11 | Debian 11 | debian11Guest debian11_64Guest | Debian11 Debian11_64 Debian11_arm64 | ~95 ~96 | ~0906 | ~l26 | -
debian10 | Debian 10 | debian10Guest debian10_64Guest | Debian10 Debian10_64 Debian10_arm64 | ~95 ~96 | ~0906 | ~l26 | -
debian9 | Debian 9 | debian9Guest debian9_64Guest | Debian9 Debian9_64 Debian9_arm64 | ~95 ~96 | ~0906 | ~l26 | debian_9
debian8 | Debian 8 | debian8Guest debian8_64Guest | Debian8 Debian8_64 | ~95 ~96 | ~0906 | ~l26 | -
debian7 | Debian 7 | debian7Guest debian7_64Guest | Debian7 Debian7_64 | ~95 ~96 | ~0906 | ~l26 | debian_7
debian6 | Debian 6 | debian6Guest debian6_64Guest | Debian6 Debian6_64 | ~95 ~96 | ~0906 | ~l26 | -
debian5 | Debian 5 | debian5Guest debian5_64Guest | Debian5 Debian5_64 | ~95 ~96 | ~0906 | ~l26 | -
debian4 | Debian 4 | debian4Guest debian4_64Guest | Debian4 Debian4_64 | ~95 ~96 | ~0906 | ~l26 | -
debian-unknown | Debian | ~debian12Guest ~debian12_64Guest | Debian Debian_64 Debian_arm64 | 95 96 | 0906 | ~l26 | -
ubuntu26.04 | Ubuntu 26.04 LTS | ~ubuntuGuest ~ubuntu64Guest | ~Ubuntu ~Ubuntu_64 ~Ubuntu_arm64 <Ubuntu26_LTS_64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu25.10 | Ubuntu 25.10 | ~ubuntuGuest ~ubuntu64Guest | ~Ubuntu ~Ubuntu_64 ~Ubuntu_arm64 <Ubuntu25_64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu25.04 | Ubuntu 25.04 | ~ubuntuGuest ~ubuntu64Guest | ~Ubuntu ~Ubuntu_64 ~Ubuntu_arm64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu24.10 | Ubuntu 24.10 | ~ubuntuGuest ~ubuntu64Guest | ~Ubuntu ~Ubuntu_64 ~Ubuntu_arm64 <Ubuntu24_64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu24.04 | Ubuntu 24.04 LTS | ~ubuntuGuest ~ubuntu64Guest | Ubuntu24_LTS_64 Ubuntu24_LTS_arm64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu23.10 | Ubuntu 23.10 | ~ubuntuGuest ~ubuntu64Guest | ~Ubuntu23_64 ~Ubuntu23_arm64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu23.04 | Ubuntu 23.04 | ~ubuntuGuest ~ubuntu64Guest | Ubuntu23_64 Ubuntu23_arm64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu22.10 | Ubuntu 22.10 | ~ubuntuGuest ~ubuntu64Guest | Ubuntu22_64 Ubuntu22_arm64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu22.04 | Ubuntu 22.04 LTS | ~ubuntuGuest ~ubuntu64Guest | Ubuntu22_LTS_64 ~Ubuntu_arm64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu21.10 | Ubuntu 21.10 | ~ubuntuGuest ~ubuntu64Guest | ~Ubuntu21_64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu21.04 | Ubuntu 21.04 | ~ubuntuGuest ~ubuntu64Guest | Ubuntu21_64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu20.10 | Ubuntu 20.10 | ~ubuntuGuest ~ubuntu64Guest | Ubuntu20_64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu20.04 | Ubuntu 20.04 LTS | ~ubuntuGuest ~ubuntu64Guest | Ubuntu20_LTS_64 ~Ubuntu_arm64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu19.10 | Ubuntu 19.10 | ~ubuntuGuest ~ubuntu64Guest | ~Ubuntu19 ~Ubuntu19_64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu19.04 | Ubuntu 19.04 | ~ubuntuGuest ~ubuntu64Guest | Ubuntu19 Ubuntu19_64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu18.10 | Ubuntu 18.10 | ~ubuntuGuest ~ubuntu64Guest | Ubuntu18 Ubuntu18_64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu18.04 | Ubuntu 18.04 LTS | ~ubuntuGuest ~ubuntu64Guest | Ubuntu18_LTS Ubuntu18_LTS_64 ~Ubuntu_arm64 | ~93 ~94 | ~090A | ~l26 | ubuntu_18_04
ubuntu17.10 | Ubuntu 17.10 | ~ubuntuGuest ~ubuntu64Guest | ~Ubuntu17 ~Ubuntu17_64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu17.04 | Ubuntu 17.04 | ~ubuntuGuest ~ubuntu64Guest | Ubuntu17 Ubuntu17_64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu16.10 | Ubuntu 16.10 | ~ubuntuGuest ~ubuntu64Guest | Ubuntu16 Ubuntu16_64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu16.04 | Ubuntu 16.04 LTS | ~ubuntuGuest ~ubuntu64Guest | Ubuntu16_LTS Ubuntu16_LTS_64 ~Ubuntu_arm64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu14.04 | Ubuntu 14.04 LTS | ~ubuntuGuest ~ubuntu64Guest | Ubuntu14_LTS Ubuntu14_LTS_64 | ~93 ~94 | ~090A | ~l26 | ubuntu_14_04
ubuntu12.04 | Ubuntu 12.04 LTS | ~ubuntuGuest ~ubuntu64Guest | Ubuntu12_LTS Ubuntu12_LTS_64 | ~93 ~94 | ~090A | ~l26 | ubuntu_12_04
ubuntu10.04 | Ubuntu 10.04 LTS | ~ubuntuGuest ~ubuntu64Guest | Ubuntu10_LTS Ubuntu10_LTS_64 | ~93 ~94 | ~090A | ~l26 | -
ubuntu-unknown | Ubuntu | ubuntuGuest ubuntu64Guest | Ubuntu Ubuntu_64 Ubuntu_arm64 <Lubuntu <Lubuntu_64 <Xubuntu <Xubuntu_64 | 93 94 | 090A | ~l26 | -
popos-unknown | Pop!_OS | ~ubuntuGuest ~ubuntu64Guest | ~Ubuntu ~Ubuntu_64 | ~93 ~94 | ~090A | ~l26 | -
elementary-unknown | elementary OS | ~ubuntuGuest ~ubuntu64Guest | ~Ubuntu ~Ubuntu_64 | ~93 ~94 | 0916 | ~l26 | -
rhel10-unknown | Red Hat Enterprise Linux 10 | rhel10_64Guest | ~RedHat_64 | ~79 ~80 | ~0913 | ~l26 | rhel_10x64
rhel9-unknown | Red Hat Enterprise Linux 9 | rhel9_64Guest | RedHat9_64 | ~79 ~80 | ~0913 | ~l26 | rhel_9x64
rhel8-unknown | Red Hat Enterprise Linux 8 | rhel8_64Guest | RedHat8_64 | ~79 ~80 | ~0913 | ~l26 | rhel_8x64
rhel7-unknown | Red Hat Enterprise Linux 7 | rhel7Guest rhel7_64Guest | RedHat7_64 | ~79 ~80 | 0913 | ~l26 | rhel_7x64
rhel6-unknown | Red Hat Enterprise Linux 6 | rhel6Guest rhel6_64Guest | RedHat6 RedHat6_64 | ~79 ~80 | ~0901 | ~l26 | rhel_6 rhel_6x64
rhel5-unknown | Red Hat Enterprise Linux 5 | rhel5Guest rhel5_64Guest | RedHat5 RedHat5_64 | ~79 ~80 | ~0901 | ~l26 | rhel_5 rhel_5x64
rhel4-unknown | Red Hat Enterprise Linux 4 | rhel4Guest rhel4_64Guest | RedHat4 RedHat4_64 | ~79 ~80 | ~0901 | ~l26 | rhel_4 rhel_4x64
rhel3-unknown | Red Hat Enterprise Linux 3 | rhel3Guest rhel3_64Guest | RedHat3 RedHat3_64 | ~79 ~80 | 090C | ~l24 | rhel_3 rhel_3x64
rhel2.1 | Red Hat Enterprise Linux 2.1 | rhel2Guest | ~RedHat | ~79 | ~0901 | ~l24 | -
rhel-unknown | Red Hat Enterprise Linux | <redhatGuest ~rhel7Guest ~rhel9_64Guest | RedHat RedHat_64 | 79 80 | 0901 | ~l26 | -
centos-stream10 | CentOS Stream 10 | ~rhel10_64Guest | ~RedHat_64 | ~106 ~107 | ~0914 | ~l26 | ~rhel_10x64
centos-stream9 | CentOS Stream 9 | centos9_64Guest | ~RedHat9_64 | ~106 ~107 | ~0914 | ~l26 | ~rhel_9x64
centos-stream8 | CentOS Stream 8 | ~centos8_64Guest | ~RedHat8_64 | ~106 ~107 | ~0914 | ~l26 | ~rhel_8x64
centos8 | CentOS 8 | centos8_64Guest | ~RedHat8_64 | ~106 ~107 | ~0914 | ~l26 | ~rhel_8x64
centos7-unknown | CentOS 7 | centos7Guest centos7_64Guest | ~RedHat7_64 | ~106 ~107 | 0914 | ~l26 | ~rhel_7x64
centos6-unknown | CentOS 6 | centos6Guest centos6_64Guest | ~RedHat6 ~RedHat6_64 | ~106 ~107 | ~090D | ~l26 | ~rhel_6 ~rhel_6x64
centos5-unknown | CentOS 5 | ~centosGuest ~centos64Guest | ~RedHat5 ~RedHat5_64 | ~106 ~107 | ~090D | ~l26 | ~rhel_5 ~rhel_5x64
centos-unknown | CentOS | centosGuest centos64Guest | ~RedHat ~RedHat_64 | 106 107 | 090D | ~l26 | -
rocky10-unknown | Rocky Linux 10 | ~rockylinux_64Guest | ~RedHat_64 | ~79 ~80 | ~0913 | ~l26 | ~rhel_10x64
rocky9-unknown | Rocky Linux 9 | ~rockylinux_64Guest | ~RedHat9_64 | ~79 ~80 | ~0913 | ~l26 | ~rhel_9x64
rocky8-unknown | Rocky Linux 8 | ~rockylinux_64Guest | ~RedHat8_64 | ~79 ~80 | ~0913 | ~l26 | ~rhel_8x64
rocky-unknown | Rocky Linux | rockylinux_64Guest | ~RedHat_64 | ~79 ~80 | ~0913 | ~l26 | -
almalinux10 | AlmaLinux 10 | ~almalinux_64Guest | ~RedHat_64 | ~79 ~80 | ~0913 | ~l26 | ~rhel_10x64
almalinux9 | AlmaLinux 9 | ~almalinux_64Guest | ~RedHat9_64 | ~79 ~80 | ~0913 | ~l26 | ~rhel_9x64
almalinux8 | AlmaLinux 8 | ~almalinux_64Guest | ~RedHat8_64 | ~79 ~80 | ~0913 | ~l26 | ~rhel_8x64
almalinux-unknown | AlmaLinux | almalinux_64Guest | ~RedHat_64 | ~79 ~80 | ~0913 | ~l26 | -
ol10-unknown | Oracle Linux 10 | ~oracleLinux9_64Guest <oracleLinux10_64Guest | ~Oracle_64 ~Oracle_arm64 <Oracle10_64 | ~108 ~109 | ~0901 | ~l26 | -
ol9-unknown | Oracle Linux 9 | oracleLinux9_64Guest | Oracle9_64 Oracle9_arm64 | ~108 ~109 | ~0901 | ~l26 | -
ol8-unknown | Oracle Linux 8 | oracleLinux8_64Guest | Oracle8_64 | ~108 ~109 | ~0901 | ~l26 | -
ol7-unknown | Oracle Linux 7 | oracleLinux7Guest oracleLinux7_64Guest | Oracle7_64 | ~108 ~109 | ~0901 | ~l26 | -
ol6-unknown | Oracle Linux 6 | oracleLinux6Guest oracleLinux6_64Guest | Oracle6 Oracle6_64 | ~108 ~109 | ~0901 | ~l26 | -
ol5-unknown | Oracle Linux 5 | ~oracleLinuxGuest ~oracleLinux64Guest | Oracle5 Oracle5_64 | ~108 ~109 | ~0901 | ~l26 | -
ol-unknown | Oracle Linux | oracleLinuxGuest oracleLinux64Guest | Oracle Oracle_64 Oracle_arm64 <Oracle4 <Oracle4_64 | 108 109 | ~0901 | ~l26 | -
scientificlinux-unknown | Scientific Linux | ~rhel7Guest ~rhel7_64Guest | ~RedHat ~RedHat_64 | ~79 ~80 | ~0901 | ~l26 | -
amazonlinux2023 | Amazon Linux 2023 | amazonlinux3_64Guest | ~RedHat_64 | ~101 | ~09FF | ~l26 | -
amazonlinux2 | Amazon Linux 2 | amazonlinux2_64Guest | ~RedHat7_64 | ~101 | ~09FF | ~l26 | -
fedora-unknown | Fedora | fedoraGuest fedora64Guest | Fedora Fedora_64 Fedora_arm64 <FedoraCore | ~36 ~101 | 0907 | ~l26 | -
fedora-coreos-stable | Fedora CoreOS | ~fedora64Guest | ~Fedora_64 ~Fedora_arm64 | ~101 | ~0907 | ~l26 | -
silverblue-unknown | Fedora Silverblue | ~fedora64Guest | ~Fedora_64 | ~101 | ~0907 | ~l26 | -
coreos-unknown | CoreOS, Flatcar | coreos64Guest | ~Linux26_64 | ~101 | ~09FF | ~l26 | -
photon-unknown | VMware Photon OS | vmwarePhoton64Guest | ~Linux26_64 | ~101 | ~09FF | ~l26 | -
sles16-unknown | SUSE Linux Enterprise 16 | sles16_64Guest | ~SUSE_LE_64 | ~84 ~85 | ~0902 | ~l26 | -
sle15-unknown | SUSE Linux Enterprise 15 | sles15_64Guest | ~SUSE_LE_64 | ~84 ~85 | ~0902 | ~l26 | -
sles12-unknown | SUSE Linux Enterprise Server 12 | sles12Guest sles12_64Guest | ~SUSE_LE ~SUSE_LE_64 | ~84 ~85 | ~0902 | ~l26 | -
sles11 | SUSE Linux Enterprise Server 11 | sles11Guest sles11_64Guest | ~SUSE_LE ~SUSE_LE_64 | ~84 ~85 | ~0902 | ~l26 | sles_11
sles10 | SUSE Linux Enterprise Server 10 | sles10Guest sles10_64Guest | ~SUSE_LE ~SUSE_LE_64 | ~84 ~85 | ~0902 | ~l26 | -
sles9 | SUSE Linux Enterprise Server 9 | ~slesGuest ~sles64Guest | ~SUSE_LE ~SUSE_LE_64 | ~84 ~85 | 090B | ~l26 | -
sle-unknown | SUSE Linux Enterprise | slesGuest sles64Guest <suseGuest <suse64Guest | SUSE_LE SUSE_LE_64 | 84 85 | 0902 | ~l26 | -
opensusetumbleweed | openSUSE Tumbleweed | ~opensuseGuest ~opensuse64Guest | OpenSUSE_Tumbleweed OpenSUSE_Tumbleweed_64 OpenSUSE_Tumbleweed_arm64 | ~82 ~83 | ~090F | ~l26 | -
opensuse15-unknown | openSUSE Leap 15 | ~opensuseGuest ~opensuse64Guest | OpenSUSE_Leap_64 OpenSUSE_Leap_arm64 | ~82 ~83 | ~090F | ~l26 | -
opensuse-unknown | openSUSE | opensuseGuest opensuse64Guest | OpenSUSE OpenSUSE_64 | 82 83 | 090F | ~l26 | -
alpinelinux-unknown | Alpine Linux | ~other5xLinuxGuest ~other5xLinux64Guest | ~Linux26 ~Linux26_64 | ~100 ~101 | ~09FF | ~l26 | -
archlinux | Arch Linux | ~other6xLinuxGuest ~other6xLinux64Guest | ArchLinux ArchLinux_64 ArchLinux_arm64 | ~100 ~101 | ~09FF | ~l26 | -
manjaro | Manjaro | ~other6xLinuxGuest ~other6xLinux64Guest | ~ArchLinux ~ArchLinux_64 | ~100 ~101 | 0918 | ~l26 | -
gentoo | Gentoo | ~other6xLinuxGuest ~other6xLinux64Guest | Gentoo Gentoo_64 | ~100 ~101 | ~09FF | ~l26 | -
mageia-unknown | Mageia | ~mandrivaGuest ~mandriva64Guest | Mageia Mageia_64 | ~89 ~90 | 0911 | ~l26 | -
mandriva-unknown | Mandriva | mandrivaGuest mandriva64Guest <mandrakeGuest | Mandriva Mandriva_64 <OpenMandriva_Lx <OpenMandriva_Lx_64 | 89 90 | 0903 | ~l26 | -
turbolinux-unknown | Turbolinux | turboLinuxGuest turboLinux64Guest | Turbolinux Turbolinux_64 | 91 92 | ~09FF | ~l26 | -
asianux-unknown | Asianux | asianux3Guest asianux3_64Guest <asianux4Guest <asianux4_64Guest <asianux5_64Guest <asianux7_64Guest <asianux8_64Guest <asianux9_64Guest | ~RedHat ~RedHat_64 | ~36 ~101 | ~09FF | ~l26 | -
nixos-unknown | NixOS | ~other6xLinuxGuest ~other6xLinux64Guest | ~Linux26 ~Linux26_64 | ~100 ~101 | ~09FF | ~l26 | -
voidlinux | Void Linux | ~other6xLinuxGuest ~other6xLinux64Guest | ~Linux26 ~Linux26_64 | ~100 ~101 | ~09FF | ~l26 | -
slackware-unknown | Slackware | ~other5xLinuxGuest ~other5xLinux64Guest | ~Linux26 ~Linux26_64 | ~100 ~101 | ~09FF | ~l26 | -
clearlinux | Clear Linux | ~other6xLinux64Guest | ~Linux26_64 | ~101 | ~09FF | ~l26 | -
cirros-unknown | CirrOS | ~other3xLinuxGuest ~other3xLinux64Guest | ~Linux26 ~Linux26_64 | ~100 ~101 | ~09FF | ~l26 | -
android-x86-unknown | Android-x86 | ~other4xLinuxGuest ~other4xLinux64Guest | ~Linux26 ~Linux26_64 | ~100 ~101 | 10FF | ~l26 | -
linux2022 | Linux of 2022 or later | other6xLinuxGuest other6xLinux64Guest | ~Linux26 ~Linux26_64 ~Linux_arm64 | ~100 ~101 | ~0905 | ~l26 | -
linux2020 | Linux of 2020 or later | other5xLinuxGuest other5xLinux64Guest | ~Linux26 ~Linux26_64 | ~100 ~101 | ~0905 | ~l26 | -
linux2018 | Linux of 2018 or later | other4xLinuxGuest other4xLinux64Guest | ~Linux26 ~Linux26_64 | ~100 ~101 | ~0905 | ~l26 | -
linux2016 | Linux of 2016 or later | other3xLinuxGuest other3xLinux64Guest | ~Linux26 ~Linux26_64 | ~100 ~101 | ~0905 | ~l26 | -
linux2.6 | Linux with a kernel 2.6 | other26xLinuxGuest other26xLinux64Guest | Linux26 Linux26_64 | 99 100 | 0905 | ~l26 | -
linux2.4 | Linux with a kernel 2.4 | other24xLinuxGuest other24xLinux64Guest | Linux24 Linux24_64 <Linux22 | 97 98 | 0904 | l24 | -
linux-unknown | Linux | otherLinuxGuest otherLinux64Guest <genericLinuxGuest | Linux Linux_64 Linux_arm64 | 36 101 | 09FF | l26 | other_linux
freebsd14-unknown | FreeBSD 14 | freebsd14Guest freebsd14_64Guest | ~FreeBSD ~FreeBSD_64 ~FreeBSD_arm64 | ~42 ~78 | ~0A06 | ~other | -
freebsd13-unknown | FreeBSD 13 | freebsd13Guest freebsd13_64Guest | ~FreeBSD ~FreeBSD_64 ~FreeBSD_arm64 | ~42 ~78 | ~0A06 | ~other | -
freebsd12-unknown | FreeBSD 12 | freebsd12Guest freebsd12_64Guest | ~FreeBSD ~FreeBSD_64 | ~42 ~78 | ~0A06 | ~other | -
freebsd11-unknown | FreeBSD 11 | freebsd11Guest freebsd11_64Guest | ~FreeBSD ~FreeBSD_64 | ~42 ~78 | ~0A06 | ~other | -
freebsd-unknown | FreeBSD | freebsdGuest freebsd64Guest | FreeBSD FreeBSD_64 FreeBSD_arm64 | 42 78 | 0A06 | ~other | freebsd freebsdx64
openbsd-unknown | OpenBSD | ~otherGuest ~otherGuest64 | OpenBSD OpenBSD_64 OpenBSD_arm64 | 65 | 0A08 | ~other | -
netbsd-unknown | NetBSD | ~otherGuest ~otherGuest64 | NetBSD NetBSD_64 NetBSD_arm64 | 43 | 0A07 | ~other | -
dragonflybsd-unknown | DragonFly BSD | ~freebsdGuest ~freebsd64Guest | ~FreeBSD ~FreeBSD_64 | ~42 ~78 | 0AFF | ~other | -
solaris11 | Solaris 11 | solaris11_64Guest | Solaris11_64 | ~81 | 0E03 | ~solaris | -
solaris10 | Solaris 10 | solaris10Guest solaris10_64Guest | Solaris10U8_or_later Solaris10U8_or_later_64 | ~29 ~81 | 0E02 | ~solaris | -
solaris9 | Solaris 9 | solaris9Guest <solaris8Guest | ~Solaris | ~29 | 0E01 | ~solaris | -
solaris-unknown | Solaris | ~solaris10Guest ~solaris10_64Guest | Solaris Solaris_64 | 29 81 | 0EFF | solaris | -
opensolaris2009.06 | OpenSolaris, illumos | ~solaris11_64Guest ~solaris10Guest | OpenSolaris OpenSolaris_64 | ~29 ~81 | 0E04 | ~solaris | -
macosx-unknown | macOS | darwinGuest darwin64Guest <darwin10Guest <darwin10_64Guest <darwin11_64Guest <darwin12_64Guest <darwin13_64Guest <darwin14_64Guest <darwin15_64Guest <darwin16_64Guest <darwin17_64Guest <darwin18_64Guest <darwin19_64Guest <darwin20_64Guest <darwin21_64Guest <darwin22_64Guest <darwin23_64Guest | MacOS MacOS_64 <MacOS106 <MacOS106_64 <MacOS107_64 <MacOS108_64 <MacOS109_64 <MacOS1010_64 <MacOS1011_64 <MacOS1012_64 <MacOS1013_64 | 2 | 0703 | ~other | -
esxi8 | VMware ESXi 8 | vmkernel8Guest | ~Other_64 | ~104 | ~FFFF | ~other | -
esxi7 | VMware ESXi 7 | vmkernel7Guest | ~Other_64 | ~104 | ~FFFF | ~other | -
esxi6.5 | VMware ESXi 6.5 | vmkernel65Guest | ~Other_64 | ~104 | ~FFFF | ~other | -
esxi-unknown | VMware ESXi | vmkernel6Guest <vmkernel5Guest <vmkernelGuest | ~Other_64 | 104 | ~FFFF | ~other | -
netware6 | NetWare 6 | netware6Guest | ~Netware | ~21 | 0D03 | ~other | -
netware5 | NetWare 5 | netware5Guest | ~Netware | ~21 | 0D02 | ~other | -
netware4 | NetWare 4 | netware4Guest | Netware | 21 | 0D01 | ~other | -
os2-unknown | OS/2 | os2Guest | OS2 <OS2Warp3 <OS2Warp4 <OS2Warp45 <OS21x <ArcaOS | 12 | 0BFF | ~other | -
ecomstation-unknown | eComStation | eComStationGuest <eComStation2Guest | OS2eCS | 110 | 0B05 | ~other | -
msdos6.22 | MS-DOS 6.22 | dosGuest | DOS | 14 | 0C01 | ~other | -
freedos1.2 | FreeDOS | ~dosGuest | ~DOS | ~14 | 0CFF | ~other | -
haiku-unknown | Haiku | ~otherGuest ~otherGuest64 | ~Other ~Other_64 | 53 | ~FFFF | ~other | -
qnx-unknown | QNX | ~otherGuest | QNX | 48 | FF01 | ~other | -
unknown | unknown system | otherGuest otherGuest64 | Other Other_64 <Other_arm64 | 1 102 | FFFF | other | other
"""
# fmt: on
