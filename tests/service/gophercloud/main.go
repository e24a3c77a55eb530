// Asks the image service as Terraform's OpenStack provider does, by the libraries that the provider is
// made of: gophercloud, and the configuration of gophercloud/utils/terraform/auth.
//
// Reads a line of JSON for each operation from standard input, and answers with one:
//
//	{"do": "create", "name": ..., "file": PATH or "url": ADDRESS, ...}  resource images_image_v2
//	{"do": "read", "id": ...}  "update"  "delete"
//	{"do": "find", "name": ..., "tags": [...], "properties": {...}}     data source images_image_v2
//	{"do": "share", "id": ..., "member": ..., "status": ...}            resource images_image_access_v2
//	{"do": "member", ...}  "accept"  "unshare"
//
// OS_AUTH_URL, OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME and OS_REGION_NAME say where, and who asks.
package main

import (
	"bufio"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/gophercloud/gophercloud"
	"github.com/gophercloud/gophercloud/openstack/imageservice/v2/imagedata"
	"github.com/gophercloud/gophercloud/openstack/imageservice/v2/imageimport"
	"github.com/gophercloud/gophercloud/openstack/imageservice/v2/images"
	"github.com/gophercloud/gophercloud/openstack/imageservice/v2/members"
	"github.com/gophercloud/utils/terraform/auth"
)

const patience = time.Minute

// asked is one line.
type asked struct {
	Do              string            `json:"do"`
	ID              string            `json:"id"`
	Member          string            `json:"member"`
	Status          string            `json:"status"`
	Name            string            `json:"name"`
	File            string            `json:"file"`
	URL             string            `json:"url"`
	ContainerFormat string            `json:"container_format"`
	DiskFormat      string            `json:"disk_format"`
	MinDisk         int               `json:"min_disk"`
	MinRAM          int               `json:"min_ram"`
	Protected       bool              `json:"protected"`
	Visibility      string            `json:"visibility"`
	Owner           string            `json:"owner"`
	MemberStatus    string            `json:"member_status"`
	SortKey         string            `json:"sort_key"`
	SortDir         string            `json:"sort_dir"`
	Limit           int               `json:"limit"`
	Tags            []string          `json:"tags"`
	Properties      map[string]string `json:"properties"`
	Changes         []change          `json:"changes"`
}

// change is one of an update's.
type change struct {
	Op    string      `json:"op"`
	Key   string      `json:"key"`
	Value interface{} `json:"value"`
}

// replacement is for what the provider replaces and this gophercloud has no name for.
type replacement struct{ change }

func (r replacement) ToImagePatchMap() map[string]interface{} {
	return map[string]interface{}{"op": "replace", "path": "/" + r.Key, "value": r.Value}
}

func main() {
	config := auth.Config{
		IdentityEndpoint: os.Getenv("OS_AUTH_URL"),
		Username:         os.Getenv("OS_USERNAME"),
		Password:         os.Getenv("OS_PASSWORD"),
		TenantName:       os.Getenv("OS_PROJECT_NAME"),
		DefaultDomain:    "default",
		Region:           os.Getenv("OS_REGION_NAME"),
		AllowReauth:      true,
		MaxRetries:       0,
	}
	if err := config.LoadAndValidate(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lines := bufio.NewScanner(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		value, err := answer(&config, lines.Bytes())
		if err != nil {
			answers.Encode(map[string]string{"error": err.Error(), "kind": fmt.Sprintf("%T", err)})
		} else {
			answers.Encode(map[string]interface{}{"value": value})
		}
	}
}

func answer(config *auth.Config, line []byte) (interface{}, error) {
	var said asked
	if err := json.Unmarshal(line, &said); err != nil {
		return nil, err
	}
	// The provider makes a client for each operation.
	client, err := config.ImageV2Client("")
	if err != nil {
		return nil, err
	}
	switch said.Do {
	case "create":
		return seen(create(client, said))
	case "read":
		return seen(images.Get(client, said.ID).Extract())
	case "update":
		return seen(images.Update(client, said.ID, updates(said.Changes)).Extract())
	case "delete":
		return nil, images.Delete(client, said.ID).ExtractErr()
	case "find":
		return find(client, said)
	case "share":
		return share(client, said)
	case "member":
		return members.Get(client, said.ID, said.Member).Extract()
	case "accept":
		how := members.UpdateOpts{Status: said.Status}
		return members.Update(client, said.ID, said.Member, how).Extract()
	case "unshare":
		return nil, members.Delete(client, said.ID, said.Member).ExtractErr()
	}
	return nil, fmt.Errorf("nothing is called %q", said.Do)
}

// shown is an image with what its JSON leaves out.
type shown struct {
	*images.Image
	Size int64 `json:"size"`
}

func seen(image *images.Image, err error) (*shown, error) {
	if err != nil {
		return nil, err
	}
	return &shown{image, image.SizeBytes}, nil
}

// create makes the image, gives it its data, waits for it and compares the checksum.
func create(client *gophercloud.ServiceClient, said asked) (*images.Image, error) {
	visibility := images.ImageVisibility(said.Visibility)
	made, err := images.Create(client, images.CreateOpts{
		Name:            said.Name,
		ContainerFormat: said.ContainerFormat,
		DiskFormat:      said.DiskFormat,
		MinDisk:         said.MinDisk,
		MinRAM:          said.MinRAM,
		Protected:       &said.Protected,
		Visibility:      &visibility,
		Tags:            said.Tags,
		Properties:      said.Properties,
	}).Extract()
	if err != nil {
		return nil, err
	}
	checksum := ""
	if said.URL != "" {
		how := imageimport.CreateOpts{Name: imageimport.WebDownloadMethod, URI: said.URL}
		err = imageimport.Create(client, made.ID, how).ExtractErr()
	} else {
		checksum, err = upload(client, made.ID, said.File)
	}
	if err != nil {
		return nil, err
	}
	image, err := wait(client, made.ID)
	if err == nil && checksum != "" && image.Checksum != checksum {
		err = fmt.Errorf("the checksum is %q, not %q", image.Checksum, checksum)
	}
	return image, err
}

func upload(client *gophercloud.ServiceClient, id, path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := md5.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), imagedata.Upload(client, id, file).ExtractErr()
}

// wait is for the states that the provider knows; any other is an error there as well.
func wait(client *gophercloud.ServiceClient, id string) (*images.Image, error) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		image, err := images.Get(client, id).Extract()
		if err != nil {
			return nil, err
		}
		switch image.Status {
		case images.ImageStatusActive:
			return image, nil
		case images.ImageStatusQueued, images.ImageStatusSaving, images.ImageStatusImporting:
		default:
			return nil, fmt.Errorf("unexpected state %q", image.Status)
		}
	}
	return nil, fmt.Errorf("the image does not become active")
}

func updates(changes []change) images.UpdateOpts {
	var all images.UpdateOpts
	for _, one := range changes {
		switch one.Key {
		case "name":
			all = append(all, images.ReplaceImageName{NewName: one.Value.(string)})
		case "visibility":
			to := images.ImageVisibility(one.Value.(string))
			all = append(all, images.UpdateVisibility{Visibility: to})
		case "tags":
			var tags []string
			for _, tag := range one.Value.([]interface{}) {
				tags = append(tags, tag.(string))
			}
			all = append(all, images.ReplaceImageTags{NewTags: tags})
		case "min_disk":
			all = append(all, images.ReplaceImageMinDisk{NewMinDisk: int(one.Value.(float64))})
		case "min_ram":
			all = append(all, images.ReplaceImageMinRam{NewMinRam: int(one.Value.(float64))})
		case "protected", "os_hidden":
			all = append(all, replacement{one})
		default:
			value, _ := one.Value.(string)
			op := images.UpdateOp(one.Op)
			all = append(all, images.UpdateImageProperty{Op: op, Name: one.Key, Value: value})
		}
	}
	return all
}

// find lists by what the service filters; properties are compared here, as in the provider.
func find(client *gophercloud.ServiceClient, said asked) ([]images.Image, error) {
	pages, err := images.List(client, images.ListOpts{
		Name:         said.Name,
		Visibility:   images.ImageVisibility(said.Visibility),
		Owner:        said.Owner,
		Status:       images.ImageStatusActive,
		SortKey:      said.SortKey,
		SortDir:      said.SortDir,
		Tags:         said.Tags,
		Limit:        said.Limit,
		MemberStatus: images.ImageMemberStatus(said.MemberStatus),
	}).AllPages()
	if err != nil {
		return nil, err
	}
	all, err := images.ExtractImages(pages)
	if err != nil {
		return nil, err
	}
	found := []images.Image{}
	for _, image := range all {
		same := true
		for key, value := range said.Properties {
			same = same && image.Properties[key] == value
		}
		if same {
			found = append(found, image)
		}
	}
	return found, nil
}

func share(client *gophercloud.ServiceClient, said asked) (*members.Member, error) {
	_, err := members.Create(client, said.ID, said.Member).Extract()
	if err == nil && said.Status != "" {
		how := members.UpdateOpts{Status: said.Status}
		_, err = members.Update(client, said.ID, said.Member, how).Extract()
	}
	if err != nil {
		return nil, err
	}
	return members.Get(client, said.ID, said.Member).Extract()
}
